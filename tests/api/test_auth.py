"""Who gets in: API tokens with their scopes, attempt tokens with their one attempt, and nobody but on this machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from api.auth import PUBLIC_PATHS
from api.database import Database
from api.main import create_app
from api.models import ApiToken, Attempt
from api.settings import Settings
from tests.support.api_client import ELSEWHERE, HERE, bearer, problem
from tests.support.databases import ONE_DATABASE
from tests.support.worker_calls import WORKER, Worker
from wire.reports import CocoMetrics


@pytest.fixture
def make(client: TestClient) -> Callable[..., dict[str, Any]]:
    """Make a token, as somebody on this machine may."""

    def post(*scopes: str, **more: Any) -> dict[str, Any]:
        answer = client.post("/tokens", json={"name": "t", "scopes": scopes, **more})
        assert answer.status_code == 201, answer.text
        body: dict[str, Any] = answer.json()
        return body

    return post


@pytest.fixture
def stranger(app: FastAPI, client: TestClient) -> TestClient:
    """A client on another machine; `client` has the application run."""
    return TestClient(app, raise_server_exceptions=False, **ELSEWHERE)


@pytest.fixture
def locked(make_settings: Callable[..., Settings]) -> Iterator[TestClient]:
    """On this machine, where everybody needs a token."""
    with TestClient(create_app(make_settings(auth="tokens")), raise_server_exceptions=False, **HERE) as client:
        yield client


def test_a_secret_is_shown_once_and_kept_as_its_sha256(
    client: TestClient, make: Callable[..., dict[str, Any]], database: Database
) -> None:
    made = make("read", owner="ann", days=3)
    secret = made["token"]
    assert re.fullmatch(r"ck_[A-Za-z0-9_-]{43}", secret)  # 43 characters of base64: 256 bits
    assert make("read")["token"] != secret
    listed = client.get("/tokens")
    assert secret not in listed.text
    found = next(item for item in listed.json()["items"] if item["id"] == made["id"])
    assert found | {"token": secret} == made
    assert (found["owner"], found["scopes"], found["revoked_at"]) == ("ann", ["read"], None)
    with database.reading() as session:
        row = session.get_one(ApiToken, made["id"])
        assert row.sha256 == hashlib.sha256(secret.encode()).hexdigest()
        assert row.expires_at is not None
        assert row.expires_at - row.created_at == timedelta(days=3)
        assert secret not in repr(vars(row))


def test_a_repeated_request_under_a_key_makes_one_token(client: TestClient) -> None:
    answers = [client.post("/tokens", json={"name": "t"}, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len(client.get("/tokens").json()["items"]) == 1


@pytest.mark.parametrize(
    ("scope", "reads", "writes", "administers"),
    [("read", 200, 403, 403), ("write", 200, 404, 403), ("admin", 200, 404, 200)],
)
def test_scopes(
    stranger: TestClient,
    make: Callable[..., dict[str, Any]],
    scope: str,
    reads: int,
    writes: int,
    administers: int,
) -> None:
    headers = bearer(make(scope)["token"])
    assert stranger.get("/jobs", headers=headers).status_code == reads
    assert stranger.post(f"/jobs/{'0' * 32}/cancel", headers=headers).status_code == writes
    assert stranger.get("/tokens", headers=headers).status_code == administers
    if administers == 403:
        assert "`admin`" in problem(stranger.post("/tokens", json={"name": "more"}, headers=headers), 403)


def test_a_stranger_needs_a_token(stranger: TestClient, make: Callable[..., dict[str, Any]]) -> None:
    answer = stranger.get("/jobs")
    assert problem(answer, 401) == "no token"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert stranger.get("/jobs", headers=bearer(make("read")["token"])).status_code == 200


def test_a_wrong_token_is_refused_even_where_none_is_needed(client: TestClient, make: Callable[..., Any]) -> None:
    assert client.get("/jobs").status_code == 200
    for token in ("ck_wrong", "", "\u00e9", make("read")["token"] + "x", WORKER["Authorization"].split()[1]):
        answer = client.get("/jobs", headers={"Authorization": f"Bearer {token}".encode()})
        assert answer.status_code == 401, token
    for said in ("Bearer", "", "Basic YTpi", "Basic"):
        problem(client.get("/jobs", headers={"Authorization": said}), 401)


def test_a_revoked_or_expired_token_is_dead(
    client: TestClient, stranger: TestClient, make: Callable[..., dict[str, Any]], database: Database
) -> None:
    revoked, expired = make("read"), make("read", days=1)
    for token in (revoked, expired):
        assert stranger.get("/jobs", headers=bearer(token["token"])).status_code == 200
    first = client.delete(f"/tokens/{revoked['id']}")
    assert first.json()["revoked_at"] is not None
    assert client.delete(f"/tokens/{revoked['id']}").json() == first.json()
    with database.transaction() as session:
        session.execute(
            update(ApiToken).where(ApiToken.id == expired["id"]).values(expires_at=session.now() - timedelta(seconds=1))
        )
    for token in (revoked, expired):
        assert "revoked or expired" in problem(stranger.get("/jobs", headers=bearer(token["token"])), 401)
    for unknown in ("0" * 32, "x", revoked["token"]):
        problem(client.delete(f"/tokens/{unknown}"), 404)


def test_where_tokens_are_asked_for_this_machine_needs_one_too(locked: TestClient) -> None:
    problem(locked.get("/jobs"), 401)
    assert locked.get("/health").status_code == 200


@ONE_DATABASE
@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"Host": "evil.example"}, "a name that a page's owner points to this machine"),
        ({"Host": "[::1"}, "no address"),
        ({"Origin": "https://evil.example"}, "a page from elsewhere"),
        ({"Origin": "null"}, "a page from nowhere"),
        ({"X-Forwarded-For": "127.0.0.1"}, "a proxy"),
        ({"Forwarded": "for=127.0.0.1"}, "a proxy"),
        ({"Via": "1.1 proxy"}, "a proxy"),
        ({"X-Forwarded-Host": "evil.example"}, "a proxy"),
        ({"X-Forwarded-Proto": "https"}, "a proxy"),
        ({"Sec-Fetch-Site": "cross-site"}, "a page from elsewhere"),
        ({"Sec-Fetch-Site": "same-site"}, "a page from another port"),
    ],
)
def test_what_comes_over_loopback_for_somebody_else_needs_a_token(
    client: TestClient, headers: dict[str, str], why: str
) -> None:
    problem(client.get("/jobs", headers=headers), 401)


def test_this_machine_by_any_of_its_names(client: TestClient) -> None:
    for host in ("localhost:8470", "127.0.0.1", "[::1]:8470"):
        for site in ("none", "same-origin"):
            headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": site}
            assert client.get("/jobs", headers=headers).status_code == 200, host


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """(method, path) of all that the service describes."""
    paths = app.openapi()["paths"]
    assert len(paths) > 15
    for path, operations in paths.items():
        yield from ((method.upper(), path) for method in operations)


@ONE_DATABASE
def test_no_route_was_forgotten(app: FastAPI, stranger: TestClient) -> None:
    """Every route but the probes' is closed to a stranger, before anything of the request is looked at."""
    for method, path in routes(app):
        if path in PUBLIC_PATHS:
            continue
        concrete = re.sub(r"\{[^}]*\}", "0" * 32, path)
        answer = stranger.request(method, concrete, content=b"[]", headers={"Content-Type": "application/json"})
        assert answer.status_code == 401, (method, path, answer.text)
    assert stranger.get("/health").status_code == stranger.get("/docs").status_code == 200


# --- workers ---------------------------------------------------------------------------------------------------------


def speaks(worker: Worker, secret: str) -> Callable[..., int]:
    """Report with `secret` for the worker's attempt; the status."""
    headers = bearer(secret) | {"Fencing-Token": str(worker.token)}

    def beat(attempt: str = worker.attempt) -> int:
        return int(worker.client.post(f"/worker/attempts/{attempt}/heartbeat", headers=headers).status_code)

    return beat


def test_an_attempt_token_speaks_for_its_attempt_alone(
    client: TestClient, worker: Worker, post_job: Callable[..., str], database: Database
) -> None:
    other = Worker(client)
    other.claim(post_job())
    claim = worker.claim(post_job()).json()
    secret = claim["attempt_token"]
    assert re.fullmatch(r"cka_[A-Za-z0-9_-]{43}", secret)
    with database.reading() as session:
        kept = session.scalars(select(Attempt.token_sha256).where(Attempt.id == worker.attempt)).one()
    assert kept == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in client.get(f"/jobs/{claim['job']}").text

    beat = speaks(worker, secret)
    assert beat() == 200
    assert beat(other.attempt) == 401
    assert beat("0" * 32) == 401
    assert speaks(worker, "cka_" + "x" * 43)() == 401
    # It claims nothing and reads nothing.
    headers = bearer(secret)
    assert client.post(f"/worker/jobs/{post_job()}/claim", json={"worker": "w"}, headers=headers).status_code == 401
    assert client.get(f"/jobs/{claim['job']}/artifacts/log.txt", headers=headers).status_code == 401


def test_a_fenced_off_attempts_token_dies(client: TestClient, worker: Worker, post_job: Callable[..., str]) -> None:
    job = post_job()
    old = worker.claim(job).json()["attempt_token"]
    beat = speaks(worker, old)
    worker.finish("released")
    assert beat() == 409  # by which a training knows that it must end
    successor = Worker(client)
    successor.claim(job)
    assert beat() == 409
    for token in (worker.token, successor.token):  # also where it has learnt its successor's number
        headers = bearer(old) | {"Fencing-Token": str(token)}
        answer = client.post(f"/worker/attempts/{successor.attempt}/heartbeat", headers=headers)
        assert answer.status_code == 401
    assert successor.post("heartbeat").status_code == 200


def test_no_route_of_an_attempt_takes_another_attempts_token(
    app: FastAPI, client: TestClient, worker: Worker, post_job: Callable[..., str]
) -> None:
    stolen = Worker(client).claim(post_job()).json()["attempt_token"]
    worker.claim(post_job())
    bodies: dict[str, Any] = {
        "metrics": {"sequence": 0},
        "evaluations": {
            "model": "student",
            "step": 1,
            "metrics": dict.fromkeys(CocoMetrics.model_fields, 0.0),
        },
        "finish": {"outcome": "released"},
        "logs": {"sequence": 0, "lines": [{"at": "2026-01-01T00:00:00Z", "level": "info", "text": "x"}]},
    }
    size_and_digest = {"size": 9, "sha256": "0" * 64}
    uploads = {"POST": size_and_digest, "PUT": size_and_digest | {"md5": ["0" * 32]}}
    digest = f"sha-256=:{'A' * 43}=:"
    upload = {"Content-Digest": digest, "Repr-Digest": digest, "Upload-Offset": "0", "Upload-Length": "9"}
    tried = 0
    for method, path in routes(app):
        if not path.startswith("/worker/attempts/{attempt}/"):
            continue
        concrete = path.replace("{attempt}", worker.attempt).replace("{name}", "log.txt")
        headers = bearer(stolen) | {"Fencing-Token": str(worker.token)} | upload
        body = uploads[method] if "/uploads/" in path else bodies.get(path.rpartition("/")[2])
        answer = client.request(method, concrete, json=body, headers=headers)
        assert answer.status_code == 401, (method, path, answer.text)
        tried += 1
    assert tried >= 6


def test_the_worker_token_reads_files_and_nothing_else(
    locked: TestClient, post_job: Callable[..., str], worker: Worker
) -> None:
    job = post_job()
    worker.claim(job)
    assert locked.get(f"/jobs/{job}/artifacts/log.txt", headers=WORKER).status_code == 404  # let in, and nothing there
    assert locked.get(f"/jobs/{job}", headers=WORKER).status_code == 401
    assert locked.post(f"/jobs/{job}/cancel", headers=WORKER).status_code == 401
    assert locked.post(f"/worker/attempts/{worker.attempt}/heartbeat", headers=worker.headers).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"name": "t", "scopes": []},
        {"name": "t", "scopes": ["root"]},
        {"name": ""},
        {"name": "t", "owner": "a b"},
        {"name": "t", "days": 0},
        {"name": "t", "token": "ck_mine"},
    ],
)
def test_what_is_no_token_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    problem(client.post("/tokens", json=body), 422)
    assert client.get("/tokens").json()["items"] == []
