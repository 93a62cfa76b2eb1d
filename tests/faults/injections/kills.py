"""Processes that are killed: SIGKILL, which nobody can catch."""

from __future__ import annotations

import os
import signal
import time

from tests.faults.scene import MOMENT, Injected, Scene
from tests.faults.stack import APIS, RELAYS


def kill_training(scene: Scene) -> Injected:
    """kill -9 of the training process: the attempt fails, the next one resumes from its checkpoint."""
    with scene.victim() as run:
        os.kill(run.training, signal.SIGKILL)
        return Injected(f"training {run.attempt} on {run.worker}", scene.failed(run.attempt, "SIGKILL"))


def kill_supervisor(scene: Scene) -> Injected:
    """kill -9 of the pool process that holds the lease: its training dies with it, the lease lapses."""
    with scene.victim() as run:
        os.kill(scene.stack.supervisor(run.worker), signal.SIGKILL)
        return Injected(f"supervisor of {run.attempt} on {run.worker}", scene.ended(run.attempt, "lost"))


def kill_celery_parent(scene: Scene) -> Injected:
    """kill -9 of Celery's parent process: what it leaves behind gives its job back and ends; a new one is started."""
    with scene.victim() as run:
        scene.stack.kill_alone(run.worker)
        time.sleep(0.5)
        scene.stack.start(run.worker)
        return Injected(f"parent of {run.worker}", scene.ended(run.attempt, "released", "lost", "failed"))


def kill_worker(scene: Scene) -> Injected:
    """kill -9 of everything that a worker runs, as when its machine loses power; it comes back after a moment."""
    with scene.victim() as run:
        scene.stack.kill(run.worker)
        time.sleep(MOMENT)
        scene.stack.start(run.worker)
        return Injected(f"all of {run.worker}", scene.ended(run.attempt, "lost"))


def kill_api(scene: Scene) -> Injected:
    """kill -9 of one API replica, which comes back after a moment: no running job may notice."""
    name = scene.pick(APIS)
    with scene.stack.holding(name), scene.victim() as run:
        scene.stack.kill(name)
        time.sleep(MOMENT)
        scene.stack.start(name)
        return Injected(name, scene.survives(run.attempt))


def kill_relay(scene: Scene) -> Injected:
    """kill -9 of both relays at the moment a job is posted: nothing is sent for it until a relay is there again."""
    with scene.stack.holding(*RELAYS):
        scene.stack.kill(*RELAYS)
        job = scene.load.post()
        time.sleep(MOMENT)
        unanswered = not scene.started(job)()
        scene.stack.start(*RELAYS)
        started = scene.started(job)
        return Injected(f"both relays, with job {job} waiting", lambda: unanswered and started())
