"""The network between worker, API and clients: cut, slow, or silent."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import httpx

from tests.faults.injection_context import LONGER, MOMENT, Injected, InjectionContext
from tests.faults.proxy import Cut, Delay, Drop, Trouble


def cut_worker_off(context: InjectionContext) -> Injected:
    """Worker and API are cut off from each other for longer than a lease: every connection is reset."""
    return _cut_off(context, Cut())


def lose_worker(context: InjectionContext) -> Injected:
    """Worker and API are cut off from each other for longer than a lease: nothing arrives, and nobody gets an error."""
    return _cut_off(context, Drop())


def _cut_off(context: InjectionContext, trouble: Trouble) -> Injected:
    with context.victim() as run:
        with context.stack.proxy.troubled(trouble, f"{run.worker}:api"):
            time.sleep(LONGER)
        return Injected(f"{run.worker}:api {trouble}", context.bounced(run))


def lose_answers(context: InjectionContext) -> Injected:
    """A worker's requests are carried out, and the answers get lost: it asks again for what is done already."""
    with context.victim() as run:
        link = context.stack.proxy.links[f"{run.worker}:api"]
        before = link.lost
        with context.stack.proxy.troubled(Drop(answers=True), link.name):
            time.sleep(MOMENT)
        return Injected(f"answers to {run.worker}", lambda: link.lost > before)


def lose_answers_to_clients(context: InjectionContext) -> Injected:
    """A job is posted and accepted, and the answer gets lost: posted again under its key, it is the same job."""
    with context.stack.holding("client"):
        link = context.stack.proxy.links["client:api"]
        before = link.lost
        poster = threading.Thread(target=context.load.post)
        with context.stack.proxy.troubled(Drop(answers=True), link.name):
            poster.start()
            time.sleep(MOMENT)
        poster.join(60)
        return Injected("answers to clients", lambda: link.lost > before and not poster.is_alive())


def slow_network(context: InjectionContext) -> Injected:
    """Every piece of every connection comes late."""
    seconds = context.random.uniform(0.02, 0.1)
    with context.stack.proxy.troubled(Delay(seconds), *context.stack.proxy.links):
        began = time.monotonic()
        with suppress(httpx.TransportError):  # another fault is on
            httpx.get(f"{context.stack.url}/health", timeout=LONGER, trust_env=False)
        took = time.monotonic() - began
        time.sleep(max(0.0, LONGER - took))
    return Injected(f"{1000 * seconds:.0f} ms on every link", lambda: took >= 2 * seconds)  # there and back
