"""`Idempotency-Key`: a POST that is repeated creates once, whatever breaks between its two ends."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from api import routes
from api.database import Database
from api.http.idempotent import IdempotencyDep, IdempotentRoute
from api.main import create_app
from api.models import Attempt, IdempotencyKey, Job
from api.services import idempotency
from api.services.submission import validation
from api.settings import Settings
from tests.support.api_client import HERE
from tests.support.databases import ONE_DATABASE
from tests.support.worker_calls import WORKER, Worker

KEY = {"Idempotency-Key": "one-of-mine"}


@pytest.fixture
def order(spec: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "train", "name": "once", "spec": spec}


@pytest.fixture
def replica(settings: Settings) -> Iterator[TestClient]:
    """Another process's application on the same database."""
    with TestClient(create_app(settings), raise_server_exceptions=False, **HERE) as client:
        yield client


def count(database: Database, table: Any) -> int:
    with database.reading() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def age(database: Database, **columns: timedelta) -> None:
    """Let the keys' times be as if so much time had passed."""
    with database.transaction() as session:
        row = session.scalars(select(IdempotencyKey)).one()
        for name, by in columns.items():
            setattr(row, name, getattr(row, name) - by)


def test_the_same_request_again_gets_the_same_answer(
    client: TestClient, replica: TestClient, database: Database, order: dict[str, Any]
) -> None:
    first = client.post("/jobs", json=order, headers=KEY)
    assert first.status_code == 201, first.text
    client.post(f"/jobs/{first.json()['id']}/cancel")  # what has become of the job since makes no difference
    for other in (client, replica):
        again = other.post("/jobs", json=order, headers=KEY)
        assert (again.status_code, again.content) == (201, first.content)
        told = [sorted((name, value) for name, value in answer.headers.items() if name != "x-request-id")
                for answer in (first, again)]  # fmt: skip
        assert told[0] == told[1]
        assert again.headers["x-request-id"] != first.headers["x-request-id"]  # it is another request
    assert first.headers["location"] == f"/jobs/{first.json()['id']}"
    assert count(database, Job) == 1


def test_another_key_or_none_creates_another(client: TestClient, database: Database, order: dict[str, Any]) -> None:
    for headers in (KEY, {"Idempotency-Key": "another"}, {}, {}):
        assert client.post("/jobs", json=order, headers=headers).status_code == 201
    assert count(database, Job) == 4


def test_another_request_under_the_key_is_refused(
    client: TestClient, database: Database, order: dict[str, Any]
) -> None:
    assert client.post("/jobs", json=order, headers=KEY).status_code == 201
    for path, body in (("/jobs", order | {"name": "other"}), ("/jobs?dry_run=true", order)):
        answer = client.post(path, json=body, headers=KEY)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")
        assert "new key" in answer.json()["remedy"]
    assert count(database, Job) == 1


def test_a_request_in_flight_is_told(
    client: TestClient, replica: TestClient, database: Database, order: dict[str, Any], monkeypatch: Any
) -> None:
    resolve, begun, go_on = validation.resolve, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return resolve(*arguments)

    monkeypatch.setattr(validation, "resolve", slow)
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(client.post("/jobs", json=order, headers=KEY)))
    first.start()
    assert begun.wait(30)
    meanwhile = replica.post("/jobs", json=order, headers=KEY)
    assert (meanwhile.status_code, meanwhile.json()["type"]) == (409, "/problems/request-in-flight")
    assert meanwhile.headers["retry-after"] == "1"
    assert replica.post("/jobs", json=order | {"name": "x"}, headers=KEY).status_code == 422
    go_on.set()
    first.join()
    assert answers[0].status_code == 201
    assert replica.post("/jobs", json=order, headers=KEY).content == answers[0].content
    assert count(database, Job) == 1


def test_a_refusal_is_not_kept(client: TestClient, database: Database, order: dict[str, Any]) -> None:
    wrong = order | {"spec": {}}
    for _ in range(2):
        assert client.post("/jobs", json=wrong, headers=KEY).status_code == 422
    assert client.post("/jobs", content=b"{", headers=KEY).status_code in (400, 415)
    assert count(database, IdempotencyKey) == 0
    assert client.post("/jobs", json=order, headers=KEY).status_code == 201


def test_a_failure_gives_the_key_back(
    client: TestClient, database: Database, order: dict[str, Any], monkeypatch: Any
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("something nobody thought of")

    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "complete", broken)  # the very last step, after the job was written
        assert client.post("/jobs", json=order, headers=KEY).status_code == 500
    assert (count(database, Job), count(database, IdempotencyKey)) == (0, 0)
    assert client.post("/jobs", json=order, headers=KEY).status_code == 201


def test_a_process_that_dies_blocks_the_key_only_for_its_lease(
    client: TestClient, database: Database, order: dict[str, Any], monkeypatch: Any
) -> None:
    def die(*_: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "complete", die)
        patch.setattr(idempotency, "release", die)  # a dead process gives nothing back
        client.post("/jobs", json=order, headers=KEY)
    assert count(database, IdempotencyKey) == 1
    assert client.post("/jobs", json=order, headers=KEY).status_code == 409
    age(database, lease_expires_at=idempotency.LEASE)
    assert client.post("/jobs", json=order, headers=KEY).status_code == 201
    assert count(database, Job) == 1


def test_of_two_that_both_think_they_hold_the_key_one_creates(
    client: TestClient, replica: TestClient, database: Database, order: dict[str, Any], monkeypatch: Any
) -> None:
    """A process that stood still for longer than its lease goes on, and finds itself overtaken."""
    resolve, overtaking = validation.resolve, iter([True, False])
    answers: list[Any] = []

    def overtaken(*arguments: Any) -> Any:
        if next(overtaking):
            age(database, lease_expires_at=idempotency.LEASE)
            answers.append(replica.post("/jobs", json=order, headers=KEY))
        return resolve(*arguments)

    monkeypatch.setattr(validation, "resolve", overtaken)
    assert client.post("/jobs", json=order, headers=KEY).status_code == 409
    assert answers[0].status_code == 201
    assert client.post("/jobs", json=order, headers=KEY).content == answers[0].content
    assert count(database, Job) == 1


def test_keys_are_kept_for_a_day(client: TestClient, database: Database, order: dict[str, Any]) -> None:
    first = client.post("/jobs", json=order, headers=KEY)
    age(database, at=timedelta(hours=23, minutes=59))
    assert client.post("/jobs", json=order, headers=KEY).content == first.content
    age(database, at=timedelta(minutes=2))
    assert client.post("/jobs", json=order, headers={"Idempotency-Key": "another"}).status_code == 201
    assert count(database, IdempotencyKey) == 1  # each reservation drops what is too old
    assert client.post("/jobs", json=order | {"name": "new"}, headers=KEY).status_code == 201
    assert count(database, Job) == 3


def test_concurrent_repetitions_create_one(
    client: TestClient, replica: TestClient, database: Database, order: dict[str, Any]
) -> None:
    answers: list[Any] = []
    for each in (client, replica):  # what Starlette builds on its first request is built once, as under a server
        assert each.get("/health").status_code == 200

    def post(to: TestClient) -> None:
        answers.append(to.post("/jobs", json=order, headers=KEY))

    threads = [threading.Thread(target=post, args=(to,)) for to in (client, replica) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.text for answer in answers if answer.status_code not in (201, 409)] == []
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert count(database, Job) == 1


def test_keys_of_two_callers_are_two(client: TestClient, post_job: Callable[..., str], database: Database) -> None:
    """Who shows other credentials never sees another's answer; without any there is none."""
    job = post_job()
    first = client.post(f"/worker/jobs/{job}/claim", json={"worker": "w"}, headers=KEY | WORKER)
    assert first.status_code == 200
    stranger = client.post(
        f"/worker/jobs/{job}/claim", json={"worker": "w"}, headers=KEY | {"Authorization": "Bearer x"}
    )
    assert stranger.status_code == 401
    with database.transaction() as session:
        kept = session.scalars(select(IdempotencyKey.answer)).one()
        session.execute(update(IdempotencyKey).values(answer=None))  # as if nobody had been answered
    assert kept is not None
    assert first.json()["attempt"].encode() not in kept  # an answer may hold a secret: it is not kept as it is
    assert client.post(f"/worker/jobs/{job}/claim", json={"worker": "w"}, headers=KEY | WORKER).status_code == 409


def test_a_claim_whose_answer_was_lost_is_had_again(
    post_job: Callable[..., str], worker: Worker, database: Database
) -> None:
    path = f"/worker/jobs/{post_job()}/claim"
    claims = [worker.client.post(path, json={"worker": "w"}, headers=WORKER | KEY) for _ in range(2)]
    assert claims[0].status_code == 200
    assert claims[1].json() == claims[0].json()
    assert worker.client.post(path, json={"worker": "w"}, headers=WORKER).status_code == 409
    assert count(database, Attempt) == 1


@ONE_DATABASE
@pytest.mark.parametrize("key", ["", "x" * 256, "\N{LATIN SMALL LETTER E WITH ACUTE}", "a\tb"])
def test_a_key_that_is_none_is_refused(client: TestClient, order: dict[str, Any], key: str) -> None:
    answer = client.post("/jobs", json=order, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "Idempotency-Key"


def test_every_post_that_creates_takes_a_key(app: FastAPI) -> None:
    creating = {
        f"{method} {path}": [parameter["name"] for parameter in operation.get("parameters", [])]
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        if method == "post" and ("201" in operation["responses"] or path.endswith("/claim"))
    }
    assert {"post /jobs", "post /worker/jobs/{job}/claim"} <= set(creating)
    assert [path for path, names in creating.items() if "Idempotency-Key" not in names] == []


def test_every_route_that_takes_a_key_keeps_its_answer() -> None:
    modules = [importlib.import_module(f"api.routes.{module.name}") for module in pkgutil.iter_modules(routes.__path__)]
    taking = [
        route
        for module in modules
        for route in getattr(module, "router", APIRouter()).routes
        if isinstance(route, APIRoute) and IdempotencyDep in route.dependencies
    ]
    assert len(taking) >= 3
    assert [route.path for route in taking if not isinstance(route, IdempotentRoute)] == []
