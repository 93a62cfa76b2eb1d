"""Processes that stand still for longer than a lease and then go on as if nothing had been: SIGSTOP, SIGCONT."""

from __future__ import annotations

import time

import httpx

from tests.faults.proxy import HOST
from tests.faults.scene import LONGER, Injected, Scene
from tests.faults.stack import APIS


def stop_worker(scene: Scene) -> Injected:
    """SIGSTOP of a whole worker for longer than a lease, then SIGCONT: what the zombie writes must be refused."""
    with scene.victim() as run:
        stack = scene.stack
        pids = [stack.pid(run.worker), stack.supervisor(run.worker), run.training]
        wake = stack.freeze(pids)
        time.sleep(LONGER)
        wake()
        return Injected(f"all of {run.worker}", scene.bounced(run))


def stop_supervisor(scene: Scene) -> Injected:
    """SIGSTOP of the pool process alone: its training goes on writing under a lease that lapses."""
    with scene.victim() as run:
        wake = scene.stack.freeze([scene.stack.supervisor(run.worker)])
        time.sleep(LONGER)
        wake()
        return Injected(f"supervisor of {run.attempt} on {run.worker}", scene.bounced(run))


def stop_training(scene: Scene) -> Injected:
    """SIGSTOP of the training alone for longer than a lease: its supervisor holds the lease, and it goes on."""
    with scene.victim() as run:
        wake = scene.stack.freeze([run.training])
        time.sleep(LONGER)
        wake()
        return Injected(f"training {run.attempt}", scene.survives(run.attempt))


def stop_api(scene: Scene) -> Injected:
    """SIGSTOP of one API replica for longer than a lease, in whatever transaction it is, then SIGCONT."""
    name = scene.pick(APIS)
    url = f"http://{HOST}:{scene.stack.ports[name]}/health"  # past the proxy, which would ask the other one next
    with scene.stack.holding(name):
        wake = scene.stack.freeze([scene.stack.pid(name)])
        began = time.monotonic()
        silent = not _answers(url)
        time.sleep(max(0.0, LONGER - (time.monotonic() - began)))
        wake()
        return Injected(name, lambda: silent and _answers(url))


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).is_success
    except httpx.TransportError:
        return False
