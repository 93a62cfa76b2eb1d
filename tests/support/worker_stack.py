"""Real processes for the worker's tests: Celery under a real broker, training real models on drawn images."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import create_engine

from api.models import Base
from tests.support.api_double import ATTEMPT_TOKEN, TOKEN
from tests.support.processes import children, command_line, descendants
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


class Worker:
    """`celery worker` as a process of its own."""

    def __init__(self, api_url: str, broker_url: str, home: Path, data: Path, **settings: str) -> None:
        self.home = home
        self.log = home / "worker.log"
        home.mkdir(parents=True, exist_ok=True)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CROSSKD_")}
        environment = {
            "CROSSKD_API_URL": api_url,
            "CROSSKD_BROKER_URL": broker_url,
            "CROSSKD_HOME": str(home),
            "CROSSKD_WORKER_TOKEN": TOKEN,
            "CROSSKD_DATA_ROOTS": str(data),
            "CROSSKD_DEVICES": "cpu",
            "CROSSKD_WORKER_NAME": "tester",
            "CROSSKD_HEARTBEAT_SECONDS": "0.5",
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker"],
                env=inherited | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> Worker:
        until(lambda: " ready." in self.text or self.process.poll() is not None)
        assert self.process.poll() is None, self.text
        return self

    @property
    def text(self) -> str:
        return self.log.read_text()

    def training(self) -> int | None:
        """The process id of the training that is running."""
        supervisors = children(self.process.pid)
        found = [
            pid for parent in supervisors for pid in children(parent) if "worker.training.run" in command_line(pid)
        ]
        return found[0] if found else None

    def rank(self, number: int) -> int | None:
        """The process id of one rank of the training that is running."""
        wanted = f"RANK={number}"
        for pid in descendants(self.process.pid):
            try:
                variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
            except OSError:
                continue
            if "worker.training.run" in command_line(pid) and wanted in variables:
                return pid
        return None

    def folder(self) -> Path:
        """The one attempt's folder."""
        (path,) = [path for path in (self.home / "work").iterdir() if path.is_dir()]
        return path

    def output(self) -> str:
        """All that trainings have printed, for a look when a test fails."""
        return "\n".join(path.read_text() for path in self.home.glob("work/*/output.txt"))

    def stop(self) -> None:
        """Kill it; its training dies with it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def spec(data: Path, *, epochs: int, **changes: Any) -> dict[str, Any]:
    """A very small training on the demo set in `data`."""
    split = {
        name: {"annotations": str(data / f"{name}.json"), "images": str(data / "images")} for name in ("train", "val")
    }
    return {
        "data": split,
        "student": {
            "backbone": {"name": "resnet_tiny", "width": 8},
            "neck": {"channels": 16},
            "head": {"channels": 16, "depth": 1, "norm_groups": 4, "reg_max": 8},
            "strides": [8, 16, 32],
        },
        "augment": {"short_edges": [64], "long_edge": 64},
        "loader": {"workers": 0},
        "optimizer": {"name": "adamw", "lr": 0.001, "base_batch": None},
        "schedule": {"epochs": epochs, "warmup_steps": 2, "decay": "none"},
        "batch_size": 4,
        "threads": 1,
        "log_every": 1,
        "export": None,
        **changes,
    }


def claim(job: str, spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What the API answers to the claim of `job`."""
    attempt = {"attempt": f"{job}-1", "fencing_token": 1, "lease_seconds": 30, "job": job}
    attempt["attempt_token"] = ATTEMPT_TOKEN
    return {**attempt, "kind": "train", "spec": spec, **changes}


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
        engine = create_engine(self.environment["CROSSKD_DATABASE_URL"])
        Base.metadata.create_all(engine)
        engine.dispose()
        self.start()

    def _run(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments], env=self.environment, cwd=ROOT, stdout=log, stderr=log
            )

    def start(self) -> None:
        self.process = self._run("api", "--port", str(self.port))
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
