"""Processes that stand still for longer than a lease and then go on as if nothing had been: SIGSTOP, SIGCONT."""

from __future__ import annotations

import time

import httpx

from tests.faults.injection_context import LONGER, Injected, InjectionContext
from tests.faults.proxy import HOST
from tests.faults.stack import APIS


def stop_worker(context: InjectionContext) -> Injected:
    """SIGSTOP of a whole worker for longer than a lease, then SIGCONT: what the zombie writes must be refused."""
    with context.victim() as run:
        stack = context.stack
        pids = [stack.pid(run.worker), stack.supervisor(run.worker), run.training]
        wake = stack.freeze(pids)
        time.sleep(LONGER)
        wake()
        return Injected(f"all of {run.worker}", context.bounced(run))


def stop_supervisor(context: InjectionContext) -> Injected:
    """SIGSTOP of the pool process alone: its training goes on writing under a lease that lapses."""
    with context.victim() as run:
        wake = context.stack.freeze([context.stack.supervisor(run.worker)])
        time.sleep(LONGER)
        wake()
        return Injected(f"supervisor of {run.attempt} on {run.worker}", context.bounced(run))


def stop_training(context: InjectionContext) -> Injected:
    """SIGSTOP of the training alone for longer than a lease: its supervisor holds the lease, and it goes on."""
    with context.victim() as run:
        wake = context.stack.freeze([run.training])
        time.sleep(LONGER)
        wake()
        return Injected(f"training {run.attempt}", context.survives(run.attempt))


def stop_api(context: InjectionContext) -> Injected:
    """SIGSTOP of one API replica for longer than a lease, in whatever transaction it is, then SIGCONT."""
    name = context.pick(APIS)
    url = f"http://{HOST}:{context.stack.ports[name]}/health"  # past the proxy, which would ask the other one next
    with context.stack.holding(name):
        wake = context.stack.freeze([context.stack.pid(name)])
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
