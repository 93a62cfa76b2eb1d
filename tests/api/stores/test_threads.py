"""Slow work on the storage has threads of its own: heartbeats must not wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi.testclient import TestClient

from api.settings import Settings
from api.stores.local import LocalStorage
from api.stores.s3 import S3DirectUploads
from api.stores.threads import PUBLISHING
from tests.support.sending import Sender
from tests.support.worker_calls import Worker

SECONDS = 30.0  # for what happens at once, unless it never does


@pytest.fixture(scope="module", params=["sqlite"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest, make_settings: Callable[..., Settings]) -> Settings:
    if request.param == "folder":
        return make_settings()
    return make_settings(**request.getfixturevalue("s3").settings())


@pytest.fixture
def senders(client: TestClient, post_job: Callable[..., str]) -> list[Sender]:
    """Three workers, each at a job of its own."""
    workers = [Worker(client) for _ in range(3)]
    for worker in workers:
        assert worker.claim(post_job()).status_code == 200
    return [Sender(worker) for worker in workers]


class SlowStorage:
    """Publications wait for `go`; `begun` counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        for kind in (LocalStorage, S3DirectUploads):
            monkeypatch.setattr(kind, "publish", self._slow(kind.publish))

    def _slow(self, publish: Callable[..., None]) -> Callable[..., None]:
        def slow(*arguments: Any) -> None:
            self.begun.release()
            assert self.go.wait(SECONDS * 3)
            publish(*arguments)

        return slow


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowStorage]:
    found = SlowStorage(monkeypatch)
    yield found
    found.go.set()


def test_heartbeats_are_heard_while_all_publications_hang(
    client: TestClient, senders: list[Sender], slow: SlowStorage
) -> None:
    def few() -> None:
        current_default_thread_limiter().total_tokens = 2

    assert client.portal is not None
    client.portal.call(few)  # threads for requests, fewer than publications
    with ThreadPoolExecutor(4) as threads:
        sent = [threads.submit(sender.by_plan, "log.txt", b"a line\n") for sender in senders]
        try:
            assert all(slow.begun.acquire(timeout=SECONDS) for _ in senders)
            heard = threads.submit(senders[0].worker.post, "heartbeat")
            assert heard.result(SECONDS).status_code == 200
        finally:
            slow.go.set()
        assert [upload.result(SECONDS).status_code for upload in sent] == [201] * 3


def test_where_too_many_wait_the_next_is_told_to_come_back(
    client: TestClient, senders: list[Sender], slow: SlowStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PUBLISHING, "running", 1)
    monkeypatch.setattr(PUBLISHING, "waiting", 1)
    portal = client.portal
    assert portal is not None
    first, second, third = senders
    with ThreadPoolExecutor(2) as threads:
        sent = [threads.submit(first.by_plan, "log.txt", b"a line\n")]
        try:
            assert slow.begun.acquire(timeout=SECONDS)
            sent.append(threads.submit(second.by_plan, "log.txt", b"a line\n"))
            deadline = time.monotonic() + SECONDS
            while portal.call(lambda: PUBLISHING._limiter().statistics().tasks_waiting) < 1:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            refused = third.by_plan("log.txt", b"a line\n")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        finally:
            slow.go.set()
        assert [upload.result(SECONDS).status_code for upload in sent] == [201] * 2
    assert third.by_plan("log.txt", b"a line\n").status_code == 201
