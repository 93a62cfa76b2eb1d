"""Webhooks against real receivers: signed, retried, shared fairly, and tested."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

import pytest
from anyio import to_thread
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from api.database import Database
from api.models import Webhook, WebhookDelivery
from api.relay import Relay
from api.services.webhooks import store
from api.services.webhooks.delivery_loop import MAX_CONCURRENT, DeliveryLoop
from api.services.webhooks.ssrf_safe_post import Undeliverable
from api.services.webhooks.store import DELAYS
from api.settings import Settings
from tests.support.databases import ONE_DATABASE
from tests.support.receiving import Receiver
from tests.support.specs import errors
from tests.support.waiting import until
from tests.support.worker_calls import Worker
from wire.webhooks import Event

LOOPBACK = "127.0.0.0/8"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.close()


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(webhook_networks=LOOPBACK)


@pytest.fixture
def hook(client: TestClient, receiver: Receiver) -> dict[str, Any]:
    """A webhook of whoever is on this machine."""
    answer = client.post("/webhooks", json={"url": receiver.url(), "events": ["running", "succeeded"]})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.fixture
def deliver(database: Database, settings: Settings) -> Iterator[Callable[[], bool]]:
    """One round of the delivery loop; whether there was something."""
    delivery_loop = DeliveryLoop(database, settings)
    with ThreadPoolExecutor(2) as threads:

        def deliver() -> bool:
            begun = delivery_loop.start_due(threads)
            wait(begun)
            return bool(begun)

        yield deliver


@pytest.fixture
def owed(database: Database) -> Callable[..., str]:
    """A webhook of an owner that so many events are due for; its id."""

    def owe(owner: str, count: int, url: str = "http://127.0.0.1:1/") -> str:
        with database.transaction() as session:
            now = session.now()
            hook = Webhook(owner=owner, url=url, events=["running"], secret="whsec_AAAA", created_at=now)
            session.add(hook)
            session.flush()
            event = Event(type="job.running", timestamp=now, data={}).model_dump(mode="json")
            for _ in range(count):
                session.add(WebhookDelivery(webhook_id=hook.id, event=event, created_at=now, due_at=now))
        return hook.id

    return owe


def hurry(database: Database) -> list[float]:
    """Make what waits due at once; how many seconds each would have waited."""
    with database.transaction() as session:
        rows = session.scalars(select(WebhookDelivery).where(WebhookDelivery.due_at.is_not(None))).all()
        waits = [(row.due_at - session.now()).total_seconds() for row in rows if row.due_at is not None]
        session.execute(update(WebhookDelivery).where(WebhookDelivery.due_at.is_not(None)).values(due_at=session.now()))
    return waits


def verify(secret: str, headers: dict[str, str], body: bytes) -> None:
    """As the page of Standard Webhooks has a receiver do it."""
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_a_change_is_told_once_and_signed(
    client: TestClient,
    receiver: Receiver,
    hook: dict[str, Any],
    worker: Worker,
    post_job: Callable[..., str],
    deliver: Callable[[], bool],
) -> None:
    assert len(base64.b64decode(hook["secret"].removeprefix("whsec_"))) == 32
    job = post_job(labels={"team": "cells"})
    assert not deliver()  # it does not want to hear of `queued`
    worker.claim(job)
    assert deliver()
    assert not deliver()
    ((path, headers, body),) = receiver.seen
    assert path == "/hook?key=of-the-receiver"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    verify(hook["secret"], headers, body)
    event = json.loads(body)
    assert event["type"] == "job.running"
    assert event["data"] == {
        "job": job,
        "kind": "train",
        "name": "a job",
        "owner": "local",
        "labels": {"team": "cells"},
        "from_status": "queued",
        "to_status": "running",
        "reason": "claimed by w1",
    }
    (told,) = client.get(f"/webhooks/{hook['id']}/deliveries").json()["items"]
    assert (told["id"], told["status"], told["tries"]) == (headers["webhook-id"], "delivered", 1)
    listed = client.get("/webhooks").text
    assert hook["id"] in listed
    assert hook["secret"] not in listed


def test_the_relay_delivers_by_itself(
    database: Database, settings: Settings, receiver: Receiver, hook: dict[str, Any], worker: Worker, post_job: Any
) -> None:
    relay = Relay(database, settings)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        worker.claim(post_job())
        until(lambda: receiver.seen)
    finally:
        relay.stop()
        thread.join()
    assert len(receiver.seen) == 1


def test_it_is_tried_again_with_growing_pauses_under_the_same_id(
    client: TestClient,
    database: Database,
    receiver: Receiver,
    hook: dict[str, Any],
    worker: Worker,
    post_job: Callable[..., str],
    deliver: Callable[[], bool],
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.statuses = [500, 302, 404] + [503] * 20
    worker.claim(post_job())
    waits = []
    while deliver():
        waits += hurry(database)
    assert len(receiver.seen) == len(waits) + 1 == len(DELAYS) + 1
    assert all(delay - 5 <= wait <= delay * 1.2 for delay, wait in zip(DELAYS, waits, strict=True)), waits
    assert len({headers["webhook-id"] for _, headers, _ in receiver.seen}) == 1
    for _, headers, body in receiver.seen:
        verify(hook["secret"], headers, body)
    (told,) = client.get(f"/webhooks/{hook['id']}/deliveries").json()["items"]
    assert (told["status"], told["next_try_at"], told["problem"]) == ("given_up", None, "the receiver answered 503")
    assert "of-the-receiver" not in caplog.text
    assert hook["secret"] not in caplog.text


def test_what_failed_is_delivered_once_the_receiver_is_back(
    client: TestClient,
    database: Database,
    receiver: Receiver,
    hook: dict[str, Any],
    worker: Worker,
    post_job: Callable[..., str],
    deliver: Callable[[], bool],
) -> None:
    receiver.statuses = [500]
    worker.claim(post_job())
    assert deliver()
    assert not deliver()  # it is not due yet
    hurry(database)
    assert deliver()
    (told,) = client.get(f"/webhooks/{hook['id']}/deliveries").json()["items"]
    assert (told["status"], told["tries"], told["problem"]) == ("delivered", 2, "")


def test_a_courier_that_dies_loses_nothing(
    database: Database, receiver: Receiver, hook: dict[str, Any], worker: Worker, post_job: Any, deliver: Any
) -> None:
    from api.services.webhooks.store import take

    worker.claim(post_job())
    with database.transaction() as session:
        assert len(take(session, 10)) == 1  # and then it dies
    assert not deliver()
    assert all(50 < wait <= 60 for wait in hurry(database))
    assert deliver()
    assert len(receiver.seen) == 1


def test_many_receivers_that_never_answer_hold_up_nobody_else(
    database: Database, settings: Settings, receiver: Receiver, owed: Callable[..., str]
) -> None:
    receiver.gate.clear()
    for _ in range(20):
        owed("ann", 3, receiver.url())
    other = Receiver()
    owed("bob", 5, other.url())
    delivery_loop = DeliveryLoop(database, settings)
    thread = threading.Thread(target=delivery_loop.run)
    thread.start()
    try:
        until(lambda: len(other.seen) == 5)  # one after the other, the others would take two minutes to give up
        receiver.gate.set()
        until(lambda: len(receiver.seen) >= 60)
    finally:
        receiver.gate.set()
        delivery_loop.stop()
        thread.join()
        other.close()


def test_what_is_taken_is_shared_fairly(database: Database, owed: Callable[..., str]) -> None:
    backlog = owed("ann", 50)
    for _ in range(10):
        owed("ann", 1)
    (late, short) = (owed("bob", 9), owed("cy", 1))
    with database.transaction() as session:
        taken = store.take(session, MAX_CONCURRENT)
    assert Counter(delivery.owner for delivery in taken) == {"ann": store.MAX_CONCURRENT_PER_OWNER, "bob": 2, "cy": 1}
    hooks = Counter(delivery.webhook for delivery in taken)
    assert (hooks[backlog], hooks[late], hooks[short]) == (1, 2, 1)
    still = [delivery for delivery in taken if delivery.owner != "bob"]
    with database.transaction() as session:
        assert [delivery.webhook for delivery in store.take(session, MAX_CONCURRENT, still)] == [late] * 2


def test_a_try_that_took_too_long_is_not_the_rows_any_more(database: Database, owed: Callable[..., str]) -> None:
    def take() -> store.PendingDelivery:
        with database.transaction() as session:
            (delivery,) = store.take(session, 10)
        return delivery

    def settle(delivery: store.PendingDelivery, trouble: Undeliverable | None) -> tuple[bool, str]:
        with database.transaction() as session:
            store.record_outcome(session, delivery, trouble)
        with database.reading() as session:
            row = session.scalars(select(WebhookDelivery)).one()
            return row.delivered, row.problem

    owed("ann", 1)
    first = take()
    hurry(database)
    second = take()  # by another delivery_loop
    assert settle(first, Undeliverable("late")) == (False, "")
    assert hurry(database)[0] > 30  # it is still the other's
    third = take()
    assert settle(third, None) == (True, "")
    assert settle(second, Undeliverable("later")) == settle(third, Undeliverable("latest")) == (True, "")


def test_a_webhook_that_is_off_gets_nothing_more(database: Database, owed: Callable[..., str]) -> None:
    owed("ann", 2)
    with database.transaction() as session:
        gone, other = store.take(session, 10)
        store.record_outcome(session, gone, Undeliverable("gone", store.GONE))
        store.record_outcome(session, other, Undeliverable("no answer"))
    assert hurry(database) == []


def test_a_receiver_that_is_gone_is_left_in_peace(
    client: TestClient, receiver: Receiver, hook: dict[str, Any], post_job: Callable[..., str], deliver: Any
) -> None:
    receiver.statuses = [410, 410]
    for job in (post_job(), post_job()):
        Worker(client).claim(job)
    deliver()
    assert client.get("/webhooks").json()["items"][0]["disabled_at"] is not None
    Worker(client).claim(post_job())
    assert not deliver()
    assert len(receiver.seen) <= 2


def test_a_change_that_is_undone_is_not_told(
    client: TestClient, hook: dict[str, Any], worker: Worker, post_job: Any, deliver: Any, database: Database
) -> None:
    job = post_job()
    assert worker.claim(job).status_code == 200
    assert Worker(client).claim(job).status_code == 409
    with database.reading() as session:
        assert len(session.scalars(select(WebhookDelivery)).all()) == 1


def test_old_deliveries_go(
    client: TestClient, database: Database, hook: dict[str, Any], post_job: Callable[..., str], deliver: Any
) -> None:
    Worker(client).claim(post_job())
    deliver()
    with database.transaction() as session:
        session.execute(update(WebhookDelivery).values(created_at=session.now() - timedelta(days=8)))
    Worker(client).claim(post_job())
    deliver()
    assert len(client.get(f"/webhooks/{hook['id']}/deliveries").json()["items"]) == 1


def test_a_test_call(client: TestClient, receiver: Receiver, hook: dict[str, Any]) -> None:
    receiver.statuses = [200, 500]
    assert client.post(f"/webhooks/{hook['id']}/test").json() == {"delivered": True, "problem": ""}
    _, headers, body = receiver.seen[0]
    verify(hook["secret"], headers, body)
    assert json.loads(body)["type"] == "ping"
    failed = client.post(f"/webhooks/{hook['id']}/test").json()
    assert failed == {"delivered": False, "problem": "the receiver answered 500"}
    assert client.get(f"/webhooks/{hook['id']}/deliveries").json()["items"] == []


def test_test_calls_leave_the_threads_to_others(
    client: TestClient, receiver: Receiver, hook: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.webhooks._tests", threading.BoundedSemaphore(1))
    path, answers = f"/webhooks/{hook['id']}/test", list[Any]()
    receiver.gate.clear()
    caller = threading.Thread(target=lambda: answers.append(client.post(path)))
    caller.start()
    try:
        until(lambda: receiver.seen)
        assert client.portal is not None
        assert client.portal.call(lambda: to_thread.current_default_thread_limiter().borrowed_tokens) == 0
        refused = client.post(path)
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
    finally:
        receiver.gate.set()
        caller.join()
    assert answers[0].status_code == 200
    assert client.post(path).status_code == 200


def test_webhooks_are_their_owners(client: TestClient, receiver: Receiver, post_job: Any, deliver: Any) -> None:
    tokens = {}
    for owner in ("ann", "bob"):
        made = client.post("/tokens", json={"name": owner, "owner": owner, "scopes": ["write"]}).json()
        tokens[owner] = {"Authorization": f"Bearer {made['token']}"}
    body = {"url": receiver.url(), "events": ["running"]}
    hers = client.post("/webhooks", json=body, headers=tokens["ann"]).json()
    assert hers["owner"] == "ann"
    assert client.get("/webhooks", headers=tokens["bob"]).json()["items"] == []
    for method, path in (("DELETE", ""), ("GET", "/deliveries"), ("POST", "/test")):
        answer = client.request(method, f"/webhooks/{hers['id']}{path}", headers=tokens["bob"])
        assert answer.status_code == 404, (method, path)
    Worker(client).claim(post_job())  # nobody's job
    assert not deliver()
    assert len(client.get("/webhooks").json()["items"]) == 1  # an administrator sees them all
    assert client.delete(f"/webhooks/{hers['id']}", headers=tokens["ann"]).status_code == 204
    assert client.get("/webhooks").json()["items"] == []


def test_there_are_only_so_many(client: TestClient, receiver: Receiver) -> None:
    statuses = [client.post("/webhooks", json={"url": receiver.url()}).status_code for _ in range(21)]
    assert statuses == [201] * 20 + [409]


@ONE_DATABASE
@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://0.0.0.0/",
        "http://user:secret@example.com/",
        "http://example.com/#part",
        "http:///path",
        "http://[::1/",
        "http://example.com:99999/",
        "ftp://example.com/",
        "http://example.com/ x",
        "file:///etc/passwd",
    ],
)
def test_an_address_that_may_not_be_called_is_refused(client: TestClient, url: str) -> None:
    assert errors(client.post("/webhooks", json={"url": url})).keys() == {"/url"}
