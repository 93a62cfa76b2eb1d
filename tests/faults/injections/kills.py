"""Processes that are killed: SIGKILL, which nobody can catch."""

from __future__ import annotations

import os
import signal
import time

from tests.faults.injection_context import MOMENT, Injected, InjectionContext
from tests.faults.stack import APIS, RELAYS


def kill_training(context: InjectionContext) -> Injected:
    """kill -9 of the training process: the attempt fails, the next one resumes from its checkpoint."""
    with context.victim() as run:
        os.kill(run.training, signal.SIGKILL)
        return Injected(f"training {run.attempt} on {run.worker}", context.failed(run.attempt, "SIGKILL"))


def kill_supervisor(context: InjectionContext) -> Injected:
    """kill -9 of the pool process that holds the lease: its training dies with it, the lease lapses."""
    with context.victim() as run:
        os.kill(context.stack.supervisor(run.worker), signal.SIGKILL)
        return Injected(f"supervisor of {run.attempt} on {run.worker}", context.ended(run.attempt, "lost"))


def kill_celery_parent(context: InjectionContext) -> Injected:
    """kill -9 of Celery's parent process: what it leaves behind gives its job back and ends; a new one is started."""
    with context.victim() as run:
        context.stack.kill_alone(run.worker)
        time.sleep(0.5)
        context.stack.start(run.worker)
        return Injected(f"parent of {run.worker}", context.ended(run.attempt, "released", "lost", "failed"))


def kill_worker(context: InjectionContext) -> Injected:
    """kill -9 of everything that a worker runs, as when its machine loses power; it comes back after a moment."""
    with context.victim() as run:
        context.stack.kill(run.worker)
        time.sleep(MOMENT)
        context.stack.start(run.worker)
        return Injected(f"all of {run.worker}", context.ended(run.attempt, "lost"))


def kill_api(context: InjectionContext) -> Injected:
    """kill -9 of one API replica, which comes back after a moment: no running job may notice."""
    name = context.pick(APIS)
    with context.stack.holding(name), context.victim() as run:
        context.stack.kill(name)
        time.sleep(MOMENT)
        context.stack.start(name)
        return Injected(name, context.survives(run.attempt))


def kill_relay(context: InjectionContext) -> Injected:
    """kill -9 of both relays at the moment a job is posted: nothing is sent for it until a relay is there again."""
    with context.stack.holding(*RELAYS):
        context.stack.kill(*RELAYS)
        job = context.load.post()
        time.sleep(MOMENT)
        unanswered = not context.started(job)()
        context.stack.start(*RELAYS)
        started = context.started(job)
        return Injected(f"both relays, with job {job} waiting", lambda: unanswered and started())
