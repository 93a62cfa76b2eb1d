"""Every leaf of every JSON body replaced by what no client would send: refused or taken, never a 5xx, and readable."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.databases import ONE_DATABASE, SQLITE_IS_SLOW
from tests.support.evaluations import METRICS
from tests.support.worker_calls import WORKER, Worker

AT = "2026-01-02T03:04:05Z"
LINE = {"at": AT, "level": "info", "text": "a"}
DEVICE = {"name": "g", "memory_bytes": 1, "memory_used_bytes": 1, "utilisation": 0.5}
PROGRESS = {"phase": "training", "step": 1, "total_steps": 2, "epoch": 0.5, "loss": 1.0}
HOSTILE: dict[str, Any] = {
    "half a surrogate": "\ud800",
    "NUL": "a\0b",
    "beyond int64": 2**63,
    "below int64": -(2**63) - 1,
    "beyond a double": 10**400,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "deep": json.loads("[" * 500 + "]" * 500),
    "long": "x" * 10_000,
    "boolean": True,
    "null": None,
    "list": [],
    "object": {"\ud800": {"\0": 1}},
    "negative": -1,
}
WORKERS: dict[str, dict[str, Any]] = {
    "heartbeat": {"devices": [DEVICE]},
    "metrics": {"sequence": 0, "points": [{"key": "a", "step": 1, "value": 1.0, "at": AT}], "progress": PROGRESS},
    "evaluations": {
        "model": "student", "step": 5, "epoch": 1.0, "metrics": METRICS, "per_class": {"ring": 0.5},
        "class_metrics": {"ring": {"AP50": 0.5, "AP75": 0.5, "AR100": 0.5}}, "images": 1, "seconds": 1.0, "best": True,
    },
    "logs": {"sequence": 0, "lines": [LINE]},
}  # fmt: skip
CLIENTS: dict[str, dict[str, Any]] = {
    "/tokens": {"name": "n", "scopes": ["read"], "owner": "o", "days": 1},
    "/webhooks": {"url": "http://192.0.2.1/", "events": ["failed"]},
}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every leaf and every container stands."""
    if at:
        yield at
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from places(value[key], (*at, key))


def spoilt(body: Any) -> Iterator[tuple[str, bytes]]:
    """The body with each hostile value in each place, and with a hostile key."""
    for at in places(body):
        for name, value in HOSTILE.items():
            other = copy.deepcopy(body)
            node = other
            for key in at[:-1]:
                node = node[key]
            node[at[-1]] = value
            yield f"{name} at {at}", json.dumps(other).encode()
    yield "a key", json.dumps(body | {"\ud800\0": 1}).encode()
    yield "no UTF-8", json.dumps(body).encode()[:-1] + b', "\xff": 1}'


def post(client: TestClient, path: str, body: Any, headers: dict[str, str]) -> None:
    wrong = []
    for name, content in spoilt(body):
        answer = client.post(path, content=content, headers=headers | {"Content-Type": "application/json"})
        if answer.status_code >= 500:
            wrong.append(f"{name}: {answer.status_code}")
    assert wrong == []


def read_all(client: TestClient, job: str) -> None:
    """What was taken can be read again."""
    for path in ("", "/metrics", "/evaluations", "/logs", "/artifacts"):
        answer = client.get(f"/jobs/{job}{path}")
        assert answer.status_code == 200, (path, answer.text)
    for path in ("/jobs", "/workers", "/metrics", "/tokens", "/webhooks"):
        assert client.get(path).status_code == 200, path


@SQLITE_IS_SLOW
@pytest.mark.parametrize("what", WORKERS)
def test_what_a_worker_reports(client: TestClient, post_job: Callable[..., str], worker: Worker, what: str) -> None:
    job = post_job()
    worker.claim(job)
    post(client, f"/worker/attempts/{worker.attempt}/{what}", WORKERS[what], worker.headers)
    read_all(client, job)
    worker.finish("released")
    assert worker.claim(job).status_code == 200  # what was reported is looked at again
    read_all(client, job)


@SQLITE_IS_SLOW
def test_how_a_worker_says_that_it_has_ended(client: TestClient, post_job: Callable[..., str], worker: Worker) -> None:
    failure = {"failure_class": "infrastructure", "message": "m", "where": "w", "remedy": "r", "log_tail": ["l"]}
    body = {"outcome": "failed", "failure": failure, "result": {"a": {"b": 1}}, "log_tail": ["l"]}
    job = post_job()
    worker.claim(job)
    for name, content in spoilt(body):
        path = f"/worker/attempts/{worker.attempt}/finish"
        answer = client.post(path, content=content, headers=worker.headers | {"Content-Type": "application/json"})
        assert answer.status_code < 500, name
        if answer.status_code == 200:  # it has ended the attempt
            assert client.get(f"/jobs/{job}").status_code == 200, name
            job = post_job()
            worker.claim(job)


@SQLITE_IS_SLOW
def test_what_a_worker_claims_with(client: TestClient, post_job: Callable[..., str]) -> None:
    body = {"worker": "w", "device": "cpu", "versions": {"torch": "2"}, "devices": [DEVICE]}
    job = post_job()
    for name, content in spoilt(body):
        path = f"/worker/jobs/{job}/claim"
        answer = client.post(path, content=content, headers=WORKER | {"Content-Type": "application/json"})
        assert answer.status_code < 500, name
        if answer.status_code == 200:
            read_all(client, job)
            job = post_job()


@pytest.mark.parametrize("path", CLIENTS)
def test_what_a_client_makes(client: TestClient, post_job: Callable[..., str], path: str) -> None:
    post(client, path, CLIENTS[path], {})
    read_all(client, post_job())


@ONE_DATABASE  # dry: nothing of it is stored
def test_what_a_client_submits(client: TestClient, spec: dict[str, Any]) -> None:
    data = {"train": spec["data"]["train"], "val": spec["data"]["val"], "max_corrupt_images": 0}
    small = {"data": data, "student": spec["student"], "optimizer": {"lr": 0.1}, "seed": 0}
    order = {"kind": "train", "name": "n", "labels": {"a": "b"}, "spec": small}
    post(client, "/jobs?dry_run=true", order, {})


@SQLITE_IS_SLOW
def test_what_a_client_compares(client: TestClient, spec: dict[str, Any]) -> None:
    """The base is a specification as any other: what surrounds it is spoilt here."""
    rest = {
        "name": "n", "arms": {"alone": {}, "x": {"optimizer": {"lr": 0.1}}}, "seeds": [1], "teacher": None,
        "grid": {"optimizer.momentum": [0.8]}, "labels": {"a": "b"}, "baseline": "alone", "priority": 5,
    }  # fmt: skip
    base = json.dumps({"data": spec["data"], "student": spec["student"]}).encode()
    wrong = []
    for name, content in spoilt(rest):
        body = content[:-1] + b', "base": ' + base + b"}"
        answer = client.post("/sweeps", content=body, headers={"Content-Type": "application/json"})
        if answer.status_code >= 500 or client.get("/sweeps").status_code != 200:
            wrong.append(f"{name}: {answer.status_code}")
        if answer.status_code == 201 and client.get(answer.headers["location"]).json()["id"] != answer.json()["id"]:
            wrong.append(f"{name}: cannot be read back")
    assert wrong == []


def test_headers(client: TestClient, post_job: Callable[..., str]) -> None:
    job = post_job()
    client.post(f"/jobs/{job}/cancel")
    paths = ("/jobs", f"/jobs/{job}/metrics", f"/jobs/{job}/weights", f"/jobs/{job}/logs", f"/jobs/{job}/events")
    for name in ("Accept", "Last-Event-ID", "If-None-Match", "Range", "Host", "Authorization"):
        for value in (b"\xff\xfe", b"", b"a" * 10_000, b"9" * 400, b"bytes=0-" + b"9" * 30):
            for path in paths:
                answer = client.get(path, headers={name.encode(): value})  # type: ignore[dict-item]  # bytes will do
                assert answer.status_code < 500, (name, value, path)
    for value in (b"\xff\xfe", b"", b"a" * 10_000, b"\x01"):
        headers = {b"Idempotency-Key": value}
        answer = client.post(f"/jobs/{job}/retry", headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 422
