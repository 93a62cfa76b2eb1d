"""Real processes for the worker's tests: Celery under a real broker, training real models on drawn images."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.api_double import ATTEMPT_TOKEN, TOKEN


def until(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """The condition's first true value; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"it did not happen within {seconds} s")


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    try:
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    return [pid for child in children(pid) for pid in [child, *descendants(child)]]


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
        **changes,
    }


def claim(job: str, spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What the API answers to the claim of `job`."""
    attempt = {"attempt": f"{job}-1", "fencing_token": 1, "lease_seconds": 30, "job": job}
    attempt["attempt_token"] = ATTEMPT_TOKEN
    return {**attempt, "kind": "train", "spec": spec, **changes}
