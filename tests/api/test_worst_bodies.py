"""The most work that a body can make: answers stay small, the event loop stays free, and memory comes back.

`python -m benchmarks.service.worst_bodies` sends the same ones over a socket and asks for `/health` meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.main import collect_less_garbage
from benchmarks.service.bodies import LIMIT, filled, of_every_endpoint
from tests.support.databases import ONE_DATABASE
from tests.support.worker_calls import WORKER, Worker

HOLD_SECONDS = 0.25  # CPU time of one callback on the event loop, so that others are answered meanwhile


def megabytes(what: str) -> int:
    (found,) = re.findall(rf"^{what}:\s*(\d+) kB", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return int(found) // 1024


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """CPU seconds of each callback that the event loop ran, as in a process that only serves.

    Those of other processes do not count.
    """
    before = gc.get_threshold()
    collect_less_garbage()
    found: list[float] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        found.append(time.thread_time() - began)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    yield found
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_the_worst_bodies_of_every_endpoint(
    app: FastAPI, client: TestClient, worker: Worker, post_job: Callable[..., str], held: list[float]
) -> None:
    worker.claim(post_job())
    Path("/proc/self/clear_refs").write_text("5")  # the highest use of memory counts from now on
    before = megabytes("VmHWM")
    sent = 0
    for method, path, body in of_every_endpoint(app.openapi()):
        headers = worker.headers if "{attempt}" in path else WORKER if path.startswith("/worker/") else {}
        concrete = path.replace("{attempt}", worker.attempt).replace("{job}", "0" * 32)
        answer = client.request(method, concrete, content=body, headers={**headers, "Content-Type": "application/json"})
        about = (method, path, body[:80], answer.text[:300])
        assert answer.status_code in (400, 404, 409, 413, 422), about
        assert len(answer.content) < 1_000_000, about
        assert max(held) < HOLD_SECONDS, (max(held), *about)
        sent += 1
    assert sent > 100
    assert megabytes("VmHWM") - before < 150


@ONE_DATABASE
def test_a_batch_without_a_token_is_not_read(client: TestClient, held: list[float]) -> None:
    headers = {"Authorization": "Bearer cka_x", "Content-Type": "application/json", "Fencing-Token": "1"}
    body = '{"sequence": 1, "points": ' + filled("{}") + "}"
    tracemalloc.start()
    try:
        answer = client.post(f"/worker/attempts/{'0' * 32}/metrics", content=body, headers=headers)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (answer.status_code, len(answer.content) < 1000) == (401, True)
    assert peak < 5 * LIMIT  # its bytes, and not what they would become


@ONE_DATABASE
def test_many_faults_are_counted_and_the_first_are_listed(client: TestClient, spec: dict[str, Any]) -> None:
    def refused(body: dict[str, Any]) -> dict[str, Any]:
        answer = client.post("/jobs", json=body)
        assert answer.status_code == 422
        found: dict[str, Any] = answer.json()
        return found

    body = {"kind": "train", "name": "n", "spec": spec}
    some = refused({**body, "spec": {**spec, "data": {**spec["data"], "classes": [1] * 250}}})
    assert (some["detail"], len(some["errors"])) == (
        "the request has 250 faults; `errors` tells where the first 100 are", 100,
    )  # fmt: skip
    many = refused({**body, "spec": {**spec, **{f"x{number}": 0 for number in range(50_000)}}})
    (fault,) = many["errors"]
    assert fault["pointer"] == "/spec"
    assert fault["detail"] == "50000 fields are not known here, the first of them x0, x1, x2"
    long = refused({**body, "y" * 900_000: 0})
    assert len(json.dumps(long)) < 10_000
