"""Trackers under test: a job and its records, a server that hangs, a real MLflow server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from tests.support.waiting import until
from tests.support.worker_stack import ROOT, spec
from wire.scalars import encode_non_finite
from worker.tracking.files import Job, Link, Points, TrackingFolder, Writer

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
MLFLOW = ROOT / ".venv" / "mlflow" / "bin" / "mlflow"


def prepared(path: Path, *, job: str = "0123456789abcdef", attempt: int = 1, resume_step: int = 0) -> TrackingFolder:
    """The files of a training that is about to start; the worker's home is the folder's parent."""
    folder = TrackingFolder(path)
    url = f"http://127.0.0.1:1/jobs/{job}"
    values = {"job": job, "attempt": attempt, "resume_step": resume_step, "url": url, "home": path.parent}
    folder.create(Job(kind="train", spec=spec(path, epochs=1), **values))
    return folder


def tell(folder: TrackingFolder, steps: range, links: tuple[str, ...] = (), loss: float = 0.5) -> None:
    """Records of these steps: two points each."""
    writer = Writer(folder.records, 10**6)
    for step in steps:
        writer.write(Points(step=step, at=AT, values={"loss": encode_non_finite(loss), "student/AP": step / 100}))
    for name in links:
        writer.write(Link(name=name))
    writer.close()


@contextmanager
def follower(
    folder: TrackingFolder, name: str, python: str = sys.executable, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a tracker, as a supervisor starts it; `python` is one that has the tracker's package."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CROSSKD_", "MLFLOW_"))}
    with folder.output(name).open("ab") as output:
        process = subprocess.Popen(
            [python, "-m", "worker.tracking", str(folder.path), name],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=inherited | settings,
            cwd=ROOT,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def hanging_server() -> Iterator[tuple[str, socket.socket]]:
    """An address where connections are taken, as far as the kernel takes them by itself, and nothing is answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", server


class MlflowServer:
    """`mlflow server` with SQLite, of an environment of its own: it needs other versions than ours of what we use."""

    def __init__(self, folder: Path) -> None:
        assert MLFLOW.exists(), "there is no MLflow; `make .venv/mlflow/.installed` installs it"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        place = ["--artifacts-destination", str(self._folder / "files"), "--host", "127.0.0.1", "--port"]
        with (self._folder / "mlflow.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(MLFLOW), "server", *store, *place, str(self.port), "--workers", "1"],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": f"{MLFLOW.parent}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
                | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "HOME": str(self._folder)},
            )
        until(self._answers, 120)

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._folder / "mlflow.log").read_text()
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
