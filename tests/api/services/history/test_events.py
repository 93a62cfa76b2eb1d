"""The journal of a job and its stream: every event once, in order, whoever asks and however often it comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, event, select, update

from api.auth import IMPLIED_SCOPES, LOCAL, Caller
from api.database import Database
from api.errors import NotFound
from api.http import streams as open_streams
from api.http.streams import Streams, follow, is_token_valid
from api.models import ApiToken, Event, Job, MetricPoint
from api.services.history import events
from api.settings import Settings
from tests.support.databases import ONE_DATABASE
from tests.support.evaluations import EVALUATION
from tests.support.event_stream import stream
from tests.support.waiting import until
from tests.support.worker_calls import Worker

PostJob = Callable[..., str]
AT = "2026-01-01T00:00:00Z"


def points(*at: tuple[str, int, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "step": step, "value": value, "at": AT} for key, step, value in at]


def line(text: str) -> dict[str, str]:
    return {"at": AT, "level": "info", "text": text}


@pytest.fixture
def life(post_job: PostJob, worker: Worker) -> str:
    """A job that has had everything happen to it, twice."""
    job = post_job()
    for number in (1, 2):
        assert worker.claim(job).status_code == 200
        batch = {"sequence": 0, "points": points(("loss", 1, 0.5), ("lr", 1, "NaN"), ("loss", 2, number))}
        assert worker.post("metrics", batch).status_code == 204
        lines = {"sequence": 0, "lines": [line(f"a {number}"), line("é\u2028: two")]}
        assert worker.post("logs", lines).status_code == 204
        assert worker.post("evaluations", EVALUATION).status_code == 204
        progress = {"phase": "uploading", "step": 2, "total_steps": 2}
        assert worker.post("metrics", {"sequence": 1, "progress": progress}).status_code == 204
        for what, again in (("metrics", batch), ("logs", lines), ("evaluations", EVALUATION)):
            assert worker.post(what, again).status_code == 204  # a repetition changes nothing
        assert worker.finish("released" if number == 1 else "succeeded").status_code == 200
    return job


def test_everything_is_told_once_and_in_order(client: TestClient, life: str) -> None:
    told = stream(client, life)
    assert [number for number, _, _ in told] == list(range(1, len(told) + 1))
    assert [kind for _, kind, _ in told] == [
        "transition",
        *["transition", "metrics", "log", "evaluation", "metrics", "transition"] * 2,
    ]
    assert client.get(f"/jobs/{life}").json()["last_event"] == len(told)
    moves = [(data["from_status"], data["to_status"]) for _, kind, data in told if kind == "transition"]
    assert moves == [
        (None, "queued"),
        ("queued", "running"),
        ("running", "queued"),
        ("queued", "running"),
        ("running", "succeeded"),
    ]
    _, _, second = told[8]
    assert [(p["key"], p["step"], p["value"], p["attempt"]) for p in second["points"]] == [
        ("loss", 1, 0.5, 2),
        ("lr", 1, "NaN", 2),
        ("loss", 2, 2.0, 2),
    ]
    assert told[5][2]["points"] == []
    assert told[5][2]["progress"]["phase"] == "uploading"
    assert [(one["number"], one["attempt"], one["text"]) for one in told[9][2]["lines"]] == [
        (3, 2, "a 2"),
        (4, 2, "é\u2028: two"),
    ]
    assert (told[10][2]["attempt"], told[10][2]["metrics"]["AP"]) == (2, 0.25)


def test_a_reader_that_comes_back_misses_nothing(client: TestClient, life: str) -> None:
    told = stream(client, life)
    for last in range(len(told)):
        assert stream(client, life, last) == told[last:]
        assert stream(client, life, query=f"?after={last}") == told[last:]
    gone = client.get(f"/jobs/{life}/events", headers={"Last-Event-ID": str(len(told))})
    assert (gone.status_code, gone.content) == (204, b"")  # a browser asks no more


def test_kinds_are_chosen(client: TestClient, life: str) -> None:
    told = stream(client, life)
    for kinds in (["log"], ["log", "transition"]):
        query = "?" + "&".join(f"kind={kind}" for kind in kinds)
        assert stream(client, life, query=query) == [event for event in told if event[1] in kinds]
    assert client.get(f"/jobs/{life}/events?kind=log").text.count("event: log") == 2
    last = max(number for number, kind, _ in told if kind == "log")
    assert client.get(f"/jobs/{life}/events?kind=log", headers={"Last-Event-ID": str(last)}).status_code == 204


@ONE_DATABASE
@pytest.mark.parametrize(
    ("query", "headers", "where"),
    [
        ("", {"Last-Event-ID": "99"}, "Last-Event-ID"),
        ("?after=99", {}, "after"),
        ("", {"Last-Event-ID": "x"}, "last-event-id"),
        ("?kind=loss", {}, "kind"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    client: TestClient, post_job: PostJob, query: str, headers: dict[str, str], where: str
) -> None:
    answer = client.get(f"/jobs/{post_job()}/events{query}", headers=headers)
    assert answer.status_code == 422
    assert where.lower() in answer.json()["errors"][0]["pointer"].lower()


@pytest.mark.parametrize("job", ["0" * 32, "x"])
def test_a_job_that_there_is_not(client: TestClient, job: str) -> None:
    assert client.get(f"/jobs/{job}/events").status_code == 404
    assert client.get(f"/jobs/{job}/logs?follow=true").status_code == 404


def test_a_batch_brings_the_points_that_it_brought(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    """Steps of two batches may overlap, and a point that was there before stays the first batch's."""
    job = post_job()
    worker.claim(job)
    worker.post("metrics", {"sequence": 0, "points": points(("a", 5, 1), ("c", 5, 1), ("a", 9, 1))})
    worker.post("metrics", {"sequence": 1, "points": points(("b", 5, 2), ("a", 5, 2), ("a", 7, 2))})
    worker.finish("succeeded")
    brought = [
        [(point["key"], point["step"], point["value"]) for point in data["points"]]
        for _, kind, data in stream(client, job)
        if kind == "metrics"
    ]
    assert brought == [[("a", 5, 1.0), ("c", 5, 1.0), ("a", 9, 1.0)], [("b", 5, 2.0), ("a", 7, 2.0)]]


def test_pages_are_bounded(
    database: Database, post_job: PostJob, worker: Worker, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = post_job()
    worker.claim(job)
    for sequence in range(7):
        many = [("loss", 1000 * sequence + step, step) for step in range(500)]
        worker.post("metrics", {"sequence": sequence, "points": points(*many)})
    worker.finish("succeeded")
    after, sizes = 0, []
    while not (page := events.read(database, job, after, [])).over:
        after = page.events[-1].id
        sizes.append(len(page.events))
    assert len(sizes) > 1
    assert after + len(page.events) == page.last_event == 10
    monkeypatch.setattr(events, "PAGE_EVENTS", 3)
    assert len(stream(client, job)) == 10


def test_numbers_have_no_hole_however_many_write(
    client: TestClient, post_job: PostJob, worker: Worker, database: Database
) -> None:
    job = post_job()
    worker.claim(job)

    def report(number: int) -> int:
        batch = {"sequence": number, "points": points(("loss", number, 1)), "progress": {"step": number}}
        return int(worker.post("metrics", batch).status_code)

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(report, range(30))) == {204}
    with database.reading() as session:
        numbers = list(session.scalars(select(Event.seq).where(Event.job_id == job).order_by(Event.seq)))
    assert numbers == list(range(1, 33))


def test_a_deleted_job_takes_its_journal_along(database: Database, life: str) -> None:
    with database.transaction() as session:
        session.execute(delete(MetricPoint))
        session.execute(delete(Job).where(Job.id == life))
    with database.reading() as session:
        assert session.scalars(select(Event)).all() == []


@contextmanager
def after_reading(database: Database, words: str, do: Callable[[], object]) -> Iterator[None]:
    """Do something once, behind the first statement that has these words."""
    done: list[str] = []

    def look(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if words in statement and not done:
            done.append(statement)
            do()

    event.listen(database.engine, "after_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(database.engine, "after_cursor_execute", look)
    assert done


@pytest.mark.parametrize("kind", ["transition", "evaluation"])
def test_a_job_that_is_deleted_while_it_is_read(database: Database, settings: Settings, life: str, kind: str) -> None:
    if settings.database_url.startswith("sqlite"):
        pytest.skip("a reader there sees what was when it began")

    def remove() -> None:
        with database.transaction() as session:
            session.execute(delete(MetricPoint))
            session.execute(delete(Job).where(Job.id == life))

    with after_reading(database, "FROM events", remove), pytest.raises(NotFound):
        events.read(database, life, 0, [kind])


def test_what_was_passed_over_is_not_gone_through_again(
    database: Database, settings: Settings, post_job: PostJob, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = post_job()
    worker.claim(job)
    worker.post("logs", {"sequence": 0, "lines": [line("one")]})
    asked = [0]
    read = events.read

    def noted(database: Database, job: str, after: int, kinds: list[str]) -> events.Page:
        asked.append(after)
        return read(database, job, after, kinds)

    monkeypatch.setattr(events, "read", noted)

    def train() -> None:
        try:
            for sequence in range(3):
                worker.post("metrics", {"sequence": sequence, "points": points(("loss", sequence, 1))})
                until(lambda last=4 + sequence: asked[-1] == last)  # type: ignore[misc]
            worker.post("logs", {"sequence": 1, "lines": [line("two")]})
        finally:
            worker.finish("succeeded")

    async def listen() -> list[int]:
        streams = Streams(settings, threading.Event())
        async with aclosing(follow(streams, database, job, 0, ["log"], lambda: True, resumable=True)) as found:
            return [one.id async for one in found]

    with ThreadPoolExecutor(1) as training:
        trained = training.submit(train)
        assert anyio.run(listen) == [3, 7]
        trained.result()


def test_a_stream_ends_with_its_token_and_after_an_hour_if_it_can_come_back(
    database: Database, settings: Settings, post_job: PostJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = open_streams.TOKEN_CHECK_SECONDS + open_streams.POLL_CONNECTED_SECONDS
    assert latest < 30  # so long after its end a token opens a stream at the most
    monkeypatch.setattr(open_streams, "MAX_SECONDS", 0.0)
    job = post_job()
    answers = [True, True, False]

    async def listen(resumable: bool) -> int:
        streams = Streams(settings, threading.Event())
        following = follow(streams, database, job, 0, [], lambda: answers.pop(0), resumable=resumable)
        with anyio.fail_after(60):
            async with aclosing(following) as found:
                return len([one async for one in found])

    assert anyio.run(listen, True) == 0
    assert answers == [True, True, False]
    monkeypatch.setattr(open_streams, "TOKEN_CHECK_SECONDS", 0.0)
    assert anyio.run(listen, False) == 1
    assert answers == []
    monkeypatch.setattr(open_streams, "MAX_SECONDS", 3600.0)
    answers.append(False)
    assert anyio.run(listen, True) == 0


def test_a_token_stands_until_it_is_revoked_or_expires(client: TestClient, database: Database) -> None:
    made = client.post("/tokens", json={"name": "x", "owner": "ann", "scopes": ["read"]}).json()
    caller = Caller("ann", IMPLIED_SCOPES["read"], made["id"])
    asked = partial(is_token_valid, database, caller)
    assert is_token_valid(database, LOCAL)
    assert asked()

    def change(**values: Any) -> None:
        with database.transaction() as session:
            session.execute(update(ApiToken).values(**values))

    with database.reading() as session:
        now = session.now()
    change(expires_at=now)
    assert not asked()
    change(expires_at=None)
    assert asked()
    assert client.delete(f"/tokens/{made['id']}").is_success
    assert not asked()
