"""The most work that a body can make: answers stay small, the event loop stays free, and memory comes back.

Each body is about as large as the limit allows. They are made from the description of the API: a list in each place
that takes one, and unknown fields in each object.
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
from tests.support.worker_calls import WORKER, Worker

LIMIT = 990_000  # bytes of a body
HOLD_SECONDS = 0.25  # CPU time of one callback on the event loop, so that others are answered meanwhile


def filled(item: str) -> str:
    """A list that has no bound."""
    return "[" + ",".join([item] * (LIMIT // (len(item) + 1))) + "]"


def fields(count: int, value: str = "0") -> str:
    return "{" + ",".join(f'"{number}":{value}' for number in range(count)) + "}"


def wrong_entries(schema: dict[str, Any]) -> str | None:
    """As many entries as a list or a mapping may have, each as wrong as the rest of the bytes allows."""
    count = schema.get("maxItems", schema.get("maxProperties", 0))
    if count < 100:
        return None
    room = LIMIT // count - 12
    entry = fields(min(16, room // 7))
    return fields(count, entry) if schema["type"] == "object" else "[" + ",".join([entry] * count) + "]"


def places(
    schema: dict[str, Any], known: dict[str, Any], depth: int = 5
) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Paths to every list and object that a schema takes, its own among them; what they are filled with besides."""
    if depth == 0:
        return
    reference = schema.get("$ref")
    if reference is not None:
        schema = known[reference.rpartition("/")[2]]
    for branch in (*schema.get("anyOf", ()), *schema.get("allOf", ()), *schema.get("oneOf", ())):
        yield from places(branch, known, depth)
    if schema.get("type") in ("array", "object"):
        yield (), wrong_entries(schema)
    for name, inner in schema.get("properties", {}).items():
        yield from (((name, *path), entries) for path, entries in places(inner, known, depth - 1))


def bodies(schema: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    for path, entries in dict.fromkeys(places(schema, known)):
        head = "".join(f'{{"{name}":' for name in path)
        for filling in (filled("{}"), fields(LIMIT // 9), entries):
            if filling is not None:
                yield head + filling + "}" * len(path)


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


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_the_worst_bodies_of_every_endpoint(
    app: FastAPI, client: TestClient, worker: Worker, post_job: Callable[..., str], held: list[float]
) -> None:
    worker.claim(post_job())
    Path("/proc/self/clear_refs").write_text("5")  # the highest use of memory counts from now on
    before = megabytes("VmHWM")
    description = app.openapi()
    known = description["components"]["schemas"]
    sent = 0
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" not in content:
                continue
            headers = worker.headers if "{attempt}" in path else WORKER if path.startswith("/worker/") else {}
            concrete = path.replace("{attempt}", worker.attempt).replace("{job}", "0" * 32)
            for body in bodies(content["application/json"]["schema"], known):
                answer = client.request(
                    method, concrete, content=body, headers={**headers, "Content-Type": "application/json"}
                )
                about = (method, path, body[:80], answer.text[:300])
                assert answer.status_code in (400, 404, 409, 413, 422), about
                assert len(answer.content) < 1_000_000, about
                assert max(held) < HOLD_SECONDS, (max(held), *about)
                sent += 1
    assert sent > 100
    assert megabytes("VmHWM") - before < 150


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
