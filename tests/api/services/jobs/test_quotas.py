"""How much one owner or one token may have: jobs that wait, jobs that run, requests a second, bytes."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.database import Database
from api.errors import TooManyRequests
from api.limits import RateLimit
from api.models import Outbox
from api.services.jobs import outbox
from api.settings import Settings
from tests.support.databases import ONE_DATABASE
from tests.support.worker_calls import WORKER, Worker


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(
        max_waiting_per_owner=3, max_running_per_owner=2, rate_per_second=0.001, rate_burst=20, upload_limit=1000
    )


class Owner:
    """A client with a token of its own."""

    def __init__(self, client: TestClient, spec: dict[str, Any], name: str) -> None:
        made = client.post("/tokens", json={"name": name, "owner": name, "scopes": ["write"]})
        self.client, self.spec = client, spec
        self.headers = {"Authorization": f"Bearer {made.json()['token']}"}

    def post(self) -> Any:
        body = {"kind": "train", "name": "j", "spec": self.spec}
        return self.client.post("/jobs", json=body, headers=self.headers)

    def job(self) -> str:
        answer = self.post()
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


@pytest.fixture
def ann(client: TestClient, spec: dict[str, Any]) -> Owner:
    return Owner(client, spec, "ann")


@pytest.fixture
def bob(client: TestClient, spec: dict[str, Any]) -> Owner:
    return Owner(client, spec, "bob")


def test_a_job_belongs_to_the_owner_of_its_token(client: TestClient, ann: Owner, post_job: Callable[..., str]) -> None:
    hers, nobodys = ann.job(), post_job(labels={"team": "cells"})
    assert client.get(f"/jobs/{hers}").json()["owner"] == "ann"
    assert client.get(f"/jobs/{nobodys}").json()["owner"] == "local"
    assert [job["id"] for job in client.get("/jobs?owner=ann").json()["items"]] == [hers]
    assert [job["id"] for job in client.get("/jobs?owner=local&label=team=cells").json()["items"]] == [nobodys]
    assert client.get("/jobs?owner=ann&label=team=cells").json()["items"] == []
    assert client.get("/jobs?owner=a%00").status_code == 422


def test_so_many_jobs_of_an_owner_may_wait(client: TestClient, ann: Owner, bob: Owner) -> None:
    jobs = [ann.job() for _ in range(3)]
    refused = ann.post()
    assert refused.status_code == 429
    assert refused.json()["type"] == "/problems/quota-exceeded"
    assert int(refused.headers["retry-after"]) > 0
    assert "3 jobs of ann" in refused.json()["detail"]
    bob.job()
    assert client.post(f"/jobs/{jobs[0]}/pause").status_code == 200
    assert ann.post().status_code == 429  # a paused one waits, too
    assert client.post(f"/jobs/{jobs[0]}/cancel").status_code == 200
    ann.job()
    assert client.post(f"/jobs/{jobs[0]}/retry", headers=ann.headers).status_code == 429
    again = client.post(f"/jobs/{jobs[0]}/retry", headers=bob.headers)
    assert again.json()["owner"] == "bob"  # a retry is its asker's
    # A dry run stores nothing, and a wrong request is told what is wrong with it.
    body = {"kind": "train", "name": "j", "spec": ann.spec}
    assert client.post("/jobs?dry_run=true", json=body, headers=ann.headers).status_code == 200
    assert client.post("/jobs", json=body | {"spec": {}}, headers=ann.headers).status_code == 422


def test_two_requests_at_once_do_not_both_get_the_last_place(ann: Owner) -> None:
    ann.job()
    ann.job()
    start = threading.Barrier(4)
    statuses: list[int] = []

    def post() -> None:
        start.wait()
        statuses.append(ann.post().status_code)

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201, 429, 429, 429]


def sent(database: Database, job: str) -> bool:
    """Whether the job's message is due to be sent."""
    with database.reading() as session:
        return session.scalars(select(Outbox.published_at).where(Outbox.job_id == job)).one() is None


def test_so_many_jobs_of_an_owner_may_run(client: TestClient, ann: Owner, bob: Owner, database: Database) -> None:
    running = [Worker(client), Worker(client)]
    for worker in running:
        assert worker.claim(ann.job()).status_code == 200
    third, later = ann.job(), ann.job()
    with database.transaction() as session:  # their messages were sent
        for message in session.scalars(select(Outbox)):
            message.published_at = session.now()
    idle = Worker(client)
    refused = idle.claim(third)
    assert refused.status_code == 409
    assert "2 jobs of ann run" in refused.json()["detail"]
    assert client.get(f"/jobs/{third}").json()["status"] == "queued"
    assert Worker(client).claim(bob.job()).status_code == 200
    assert not sent(database, third)

    running[0].finish("succeeded")
    assert sent(database, third)
    assert not sent(database, later)
    assert idle.claim(third).status_code == 200
    assert Worker(client).claim(later).status_code == 409


def test_what_the_quota_holds_back_waits_for_no_bell(
    client: TestClient, ann: Owner, bob: Owner, database: Database
) -> None:
    """Or every reminder would be sent for all of it, and each message cost a worker a claim in vain."""
    worker = Worker(client)
    worker.claim(ann.job())
    first, *_ = [ann.job() for _ in range(3)]
    with database.transaction() as session:
        for message in session.scalars(select(Outbox)):
            message.published_at = session.now() - timedelta(minutes=1)

    def heard_of() -> list[int]:
        with database.reading() as session:
            return [found.messages for found in outbox.unclaimed(session, 5, running_quota=2)]

    assert heard_of() == [1]  # one more of hers may run
    with database.transaction() as session:
        (seen,) = outbox.unclaimed(session, 5, running_quota=2)
        outbox.dispatch_again(session, seen, 10, 5, running_quota=2)
    assert sent(database, first)
    assert Worker(client).claim(first).status_code == 200
    assert heard_of() == []
    bobs = bob.job()
    with database.transaction() as session:
        session.scalars(select(Outbox).where(Outbox.job_id == bobs)).one().published_at = session.now() - timedelta(1)
    assert heard_of() == [1]
    with database.reading() as session:
        assert [found.messages for found in outbox.unclaimed(session, 5)] == [3]


def test_requests_of_a_token_are_counted(client: TestClient, ann: Owner, bob: Owner) -> None:
    answers = [client.get("/jobs", headers=ann.headers) for _ in range(22)]
    assert [answer.status_code for answer in answers] == [200] * 20 + [429] * 2
    assert answers[-1].json()["type"] == "/problems/too-many-requests"
    assert 900 <= int(answers[-1].headers["retry-after"]) <= 1000  # at one request in 1000 seconds
    assert client.get("/jobs", headers=bob.headers).status_code == 200
    assert all(client.get("/jobs").status_code == 200 for _ in range(25))  # who needs no token is not counted


def test_a_bucket_fills_as_time_goes_by() -> None:
    now = 100.0
    limit = RateLimit(2.0, 3, lambda: now)

    def spent() -> tuple[int, str]:
        """How many requests come through, and when the next is welcome."""
        for count in range(100):
            try:
                limit.consume("t")
            except TooManyRequests as error:
                return count, error.headers["Retry-After"]
        return 100, ""

    assert spent() == (3, "1")
    now = 100.5
    assert spent() == (1, "1")
    now = 101.5
    assert spent() == (2, "1")
    now = 1000.0
    assert spent() == (3, "1")
    limit.consume("another")


def test_a_file_that_is_too_large_is_refused(
    app: FastAPI, client: TestClient, worker: Worker, post_job: Callable[..., str]
) -> None:
    worker.claim(post_job())
    for size, status in ((1000, 201), (1001, 413)):
        content = b"x" * size
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        answer = worker.put("log.txt", content, **{"Content-Digest": f"sha-256=:{digest}:"})
        assert answer.status_code == status, answer.text
    assert "1000 bytes" in answer.json()["detail"]


@ONE_DATABASE
def test_every_body_has_a_bound(app: FastAPI, client: TestClient, settings: Settings) -> None:
    """Whatever the route: a body beyond all bounds is refused, whether or not it says its length."""
    beyond = settings.body_limit * 5
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            if path.startswith("/worker/") and method in ("put", "patch"):
                continue  # an upload: it is counted as it is written
            if path.endswith("/predict"):
                continue  # images have a bound of their own: tests/api/services/answers/test_predict.py
            concrete = path.replace("{", "").replace("}", "")
            chunks = (b" " * 500_000 for _ in range(beyond // 500_000))
            token = WORKER if path.startswith("/worker/") else {}
            answer = client.request(method, concrete, headers={"Content-Length": str(beyond)}, content=b"")
            assert answer.status_code == 413, (method, path, answer.text)
            if "requestBody" in operations[method]:
                json = {"Content-Type": "application/json"} | token
                assert client.request(method, concrete, headers=json, content=chunks).status_code == 413, (method, path)
