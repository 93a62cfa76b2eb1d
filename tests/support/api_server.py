"""The API behind a real socket, served by a thread of the test; the test plays its worker."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from sqlalchemy import create_engine

from api.main import create_app
from api.models import Base
from api.settings import Settings
from client import specs
from client.sdk import Crosskd
from client.stack.services import HOST, free_port
from tests.support.coco_files import write_spec
from tests.support.evaluations import EVALUATION
from tests.support.waiting import until
from tests.support.worker_calls import DIGEST, Worker


@dataclass
class Service:
    """An API with its address, a valid spec, and a connection that a worker would use."""

    url: str
    spec: dict[str, Any]
    http: httpx.Client

    def client(self) -> Crosskd:
        return Crosskd(self.url)

    def post(self, name: str = "job", **changes: Any) -> str:
        with self.client() as client:
            return client.jobs.create(specs.complete({"spec": {**self.spec, **changes}}, name=name)).id

    def claimed(self, job: str) -> Worker:
        """A worker that has just begun a job."""
        worker = Worker(self.http)  # type: ignore[arg-type]  # any client of httpx will do
        assert worker.claim(job).status_code == 200
        return worker

    def succeeded(self, name: str, weights: bytes, **files: bytes) -> str:
        """A job that has reported points and an evaluation, published its weights and `files`, and ended well."""
        job = self.post(name)
        worker = self.claimed(job)
        at = "2026-01-01T00:00:00Z"
        values = [(key, step) for step in (1, 2, 3) for key in ("loss", "lr")]
        points = [{"key": key, "step": step, "value": 1 / step, "at": at} for key, step in values]
        progress = {"phase": "training", "step": 3, "total_steps": 3, "epoch": 1.0, "loss": 0.333}
        assert worker.post("metrics", {"sequence": 0, "points": points, "progress": progress}).is_success
        assert worker.post("evaluations", EVALUATION).is_success
        answer = worker.put("best.safetensors?kind=weights&step=3", weights, **digest_of(weights))
        assert answer.is_success, answer.text
        for file, content in files.items():
            assert worker.put(f"{file}?step=3", content, **digest_of(content)).is_success
        assert worker.finish("succeeded").is_success
        return job


def digest_of(content: bytes) -> dict[str, str]:
    return {"Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"}


@contextmanager
def served(home: Path, **settings: Any) -> Iterator[Service]:
    """An API on a home with a data root and a place for artifacts, until the block ends."""
    (home / "data").mkdir()
    (home / "artifacts").mkdir()
    with serve(home, free_port(0), **settings) as url, httpx.Client(base_url=url, trust_env=False) as http:
        yield Service(url, write_spec(home / "data"), http)


@contextmanager
def serve(home: Path, port: int, **changes: Any) -> Iterator[str]:
    """The API on `home` and `port`, in a thread, until the block ends; its address."""
    settings = Settings(
        home=home,
        database_url=f"sqlite:///{home / 'crosskd.db'}",
        worker_token_sha256=DIGEST,
        relay="external",  # nothing is dispatched here: the test itself is the worker
        **changes,
    )
    engine = create_engine(settings.database_url)
    Base.metadata.create_all(engine)
    engine.dispose()
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://{HOST}:{port}"
    finally:
        app.state.closing.set()  # as a signal does: streams end
        server.should_exit = True
        thread.join()
