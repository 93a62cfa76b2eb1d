"""Webhooks against real receivers: signed, retried, tested, and never a way into our own network."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from api.database import Database
from api.models import WebhookDelivery
from api.relay import Relay
from api.services.courier import Courier
from api.services.pinned import Forbidden, Undeliverable, permitted, post
from api.services.webhooks import DELAYS
from api.settings import Settings
from tests.api.conftest import Worker
from tests.api.specs import errors

LOOPBACK = "127.0.0.0/8"


@dataclass
class Receiver:
    """A server that keeps what it is sent, and answers with the next of `statuses`, or 200."""

    statuses: list[int] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("location", "http://127.0.0.1:1/")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/hook?key=of-the-receiver"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


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
    """One round of the courier."""
    courier = Courier(database, settings)
    with ThreadPoolExecutor(2) as threads:
        yield lambda: courier.tick(threads)


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
        deadline = time.monotonic() + 20
        while not receiver.seen and time.monotonic() < deadline:
            time.sleep(0.02)
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
    from api.services.webhooks import take

    worker.claim(post_job())
    with database.transaction() as session:
        assert len(take(session, 10)) == 1  # and then it dies
    assert not deliver()
    assert all(50 < wait <= 60 for wait in hurry(database))
    assert deliver()
    assert len(receiver.seen) == 1


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


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "::", "::1", "fc00::1", "fe80::1", "fe80::1%eth0", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "2001:0:7f00:1::", "192.0.2.1", "2001:db8::1",
    ],
)  # fmt: skip
def test_private_addresses_are_not_permitted(address: str) -> None:
    assert not permitted(address, [])


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_permitted(address: str) -> None:
    assert permitted(address, [])


def test_a_network_can_be_permitted() -> None:
    networks = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
    assert permitted("10.1.2.3", networks)
    assert permitted("::ffff:10.1.2.3", networks)
    assert permitted("fd12::1", networks)
    assert not permitted("127.0.0.1", networks)


def test_loopback_is_not_called_unless_it_is_allowed(receiver: Receiver) -> None:
    for host in ("127.0.0.1", "localhost", "2130706433", "127.1"):  # the last two are 127.0.0.1 to a resolver
        with pytest.raises(Forbidden):
            post(receiver.url(host), {}, b"{}", [])
    assert receiver.seen == []
    assert post(receiver.url("localhost"), {}, b"{}", [ip_network(LOOPBACK), ip_network("::1/128")]) == 200


def test_a_name_that_changes_its_mind_gains_nothing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is a harmless address, every later one is loopback."""
    asked: list[str] = []
    harmless, port = "192.0.2.1", receiver.port

    def resolve(host: str, *args: Any, **more: Any) -> list[Any]:
        asked.append(host)
        address = harmless if asked.count("rebinding.example") == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    connected: list[str] = []

    def connect(address: tuple[str, int], *args: Any, **more: Any) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(Undeliverable):
        post(f"http://rebinding.example:{port}/", {}, b"{}", [ip_network("192.0.2.0/24")])
    assert connected == [harmless]  # the very address that was judged, and not the name once more
    assert asked == ["rebinding.example"]


def test_one_bad_address_among_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(Forbidden):
        post("http://mixed.example/", {}, b"{}", [])


def test_a_receiver_that_drips_is_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"X-A: b\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(Undeliverable, match=r"no answer within 0\.5 s"):
            post(f"http://127.0.0.1:{server.getsockname()[1]}/", {}, b"{}", [ip_network(LOOPBACK)], seconds=0.5)
        assert time.monotonic() - began < 5
        stop.set()
        thread.join()
