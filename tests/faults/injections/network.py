"""The network between worker, API and clients: cut, slow, or silent."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import httpx

from tests.faults.proxy import Cut, Delay, Drop, Trouble
from tests.faults.scene import LONGER, MOMENT, Injected, Scene


def cut_worker_off(scene: Scene) -> Injected:
    """Worker and API are cut off from each other for longer than a lease: every connection is reset."""
    return _cut_off(scene, Cut())


def lose_worker(scene: Scene) -> Injected:
    """Worker and API are cut off from each other for longer than a lease: nothing arrives, and nobody gets an error."""
    return _cut_off(scene, Drop())


def _cut_off(scene: Scene, trouble: Trouble) -> Injected:
    with scene.victim() as run:
        with scene.stack.proxy.troubled(trouble, f"{run.worker}:api"):
            time.sleep(LONGER)
        return Injected(f"{run.worker}:api {trouble}", scene.bounced(run))


def lose_answers(scene: Scene) -> Injected:
    """A worker's requests are carried out, and the answers get lost: it asks again for what is done already."""
    with scene.victim() as run:
        link = scene.stack.proxy.links[f"{run.worker}:api"]
        before = link.lost
        with scene.stack.proxy.troubled(Drop(answers=True), link.name):
            time.sleep(MOMENT)
        return Injected(f"answers to {run.worker}", lambda: link.lost > before)


def lose_answers_to_clients(scene: Scene) -> Injected:
    """A job is posted and accepted, and the answer gets lost: posted again under its key, it is the same job."""
    with scene.stack.holding("client"):
        link = scene.stack.proxy.links["client:api"]
        before = link.lost
        poster = threading.Thread(target=scene.load.post)
        with scene.stack.proxy.troubled(Drop(answers=True), link.name):
            poster.start()
            time.sleep(MOMENT)
        poster.join(60)
        return Injected("answers to clients", lambda: link.lost > before and not poster.is_alive())


def slow_network(scene: Scene) -> Injected:
    """Every piece of every connection comes late."""
    seconds = scene.random.uniform(0.02, 0.1)
    with scene.stack.proxy.troubled(Delay(seconds), *scene.stack.proxy.links):
        began = time.monotonic()
        with suppress(httpx.TransportError):  # another fault is on
            httpx.get(f"{scene.stack.url}/health", timeout=LONGER, trust_env=False)
        took = time.monotonic() - began
        time.sleep(max(0.0, LONGER - took))
    return Injected(f"{1000 * seconds:.0f} ms on every link", lambda: took >= 2 * seconds)  # there and back
