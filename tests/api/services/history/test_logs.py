"""The log of a job while it runs: kept in order, told once, and never without a bound."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from api.auth import LOCAL
from api.database import Database
from api.http.streams import Streams
from api.routes import logs as route
from api.services.history import logs
from api.settings import Settings
from tests.support.databases import ONE_DATABASE
from tests.support.event_stream import stream
from tests.support.worker_calls import Worker
from wire.logs import LINE_CHARACTERS, MAX_LINES, StoredLine

PostJob = Callable[..., str]
AT = "2026-01-01T00:00:00Z"


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(log_limit=1000)


def batch(sequence: int, *texts: str, level: str = "info") -> dict[str, Any]:
    return {"sequence": sequence, "lines": [{"at": AT, "level": level, "text": text} for text in texts]}


@pytest.fixture
def job(post_job: PostJob, worker: Worker) -> str:
    job = post_job()
    worker.claim(job)
    return job


def test_the_last_lines_as_text_and_as_json(client: TestClient, job: str, worker: Worker) -> None:
    empty = client.get(f"/jobs/{job}/logs")
    assert (empty.text, empty.headers["content-type"]) == ("", "text/plain; charset=utf-8")
    assert worker.post("logs", batch(0, "one", "two")).status_code == 204
    assert worker.post("logs", batch(1, "", "four ünï", level="warning")).status_code == 204
    assert client.get(f"/jobs/{job}/logs?tail=3").text.splitlines() == [
        "2026-01-01 00:00:00  INFO     two",
        "2026-01-01 00:00:00  WARNING  ",
        "2026-01-01 00:00:00  WARNING  four ünï",
    ]
    page = client.get(f"/jobs/{job}/logs?tail=1", headers={"accept": "application/json"}).json()
    (last,) = page.pop("items")
    assert (last["number"], last["attempt"], last["level"], last["text"]) == (4, 1, "warning", "four ünï")
    assert page == {"oldest": 1, "total": 4, "last_event": 4}
    assert client.get(f"/jobs/{job}/logs?tail=0").text == ""
    assert client.get(f"/jobs/{job}/logs", headers={"accept": "text/csv"}).status_code == 406


def test_a_repeated_batch_changes_nothing(client: TestClient, job: str, worker: Worker) -> None:
    for sequence in (0, 1, 1, 0):
        assert worker.post("logs", batch(sequence, f"line {sequence}")).status_code == 204
    assert [text[-6:] for text in client.get(f"/jobs/{job}/logs").text.splitlines()] == ["line 0", "line 1"]


def test_only_the_newest_lines_are_kept_and_the_stream_says_so(client: TestClient, job: str, worker: Worker) -> None:
    for sequence in range(5):
        worker.post("logs", batch(sequence, *(f"{sequence} " + "x" * 97 for _ in range(4))))
    page = client.get(f"/jobs/{job}/logs", headers={"accept": "application/json"}).json()
    assert (page["oldest"], page["total"], len(page["items"])) == (9, 20, 12)
    worker.finish("succeeded")
    told = [(data["dropped"], len(data["lines"])) for _, kind, data in stream(client, job) if kind == "log"]
    assert told == [(4, 0), (4, 0), (0, 4), (0, 4), (0, 4)]


def test_what_comes_while_it_is_read_is_left_to_the_events(database: Database, job: str, worker: Worker) -> None:
    worker.post("logs", batch(0, "one", "two"))

    def come(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "max(" in statement and not came:  # how far the log goes is known by now
            came.append(statement)
            assert worker.post("logs", batch(1, "three")).status_code == 204

    came: list[str] = []
    event.listen(database.engine, "after_cursor_execute", come)
    try:
        with database.reading() as session:
            page = logs.tail(session, job, 10)
    finally:
        event.remove(database.engine, "after_cursor_execute", come)
    assert came
    assert ([line.text for line in page.items], page.total) == (["one", "two"], 2)


def test_parts_of_a_log_make_the_whole(
    client: TestClient, database: Database, job: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "CHUNKS_AT_ONCE", 2)
    for sequence in range(7):
        worker.post("logs", batch(sequence, *(f"{sequence} {place}" for place in range(1 + sequence % 3))))
    with database.reading() as session:
        for count in range(15):
            numbers = [line.number for line in logs.tail(session, job, count).items]
            assert numbers == list(range(13, 0, -1))[:count][::-1], count
    worker.finish("succeeded")
    assert len(client.get(f"/jobs/{job}/logs?follow=true&tail=5").text.splitlines()) == 5


def test_a_follower_holds_only_a_part(
    database: Database, settings: Settings, job: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "CHUNKS_AT_ONCE", 2)
    for sequence in range(10):
        worker.post("logs", batch(sequence, *["x"] * 20))
    with database.reading() as session:
        known = logs.extent(session, job)

    def count() -> int:
        return sum(type(one) is StoredLine for one in gc.get_objects())

    async def read() -> list[int]:
        """How many lines were in memory each time that some were told."""
        streams = Streams(settings, threading.Event())
        held = []
        async with aclosing(route._followed(streams, database, job, LOCAL, known, 1000)) as parts:
            async for part in parts:
                assert part.count("\n") == 40
                held.append(count())
                if len(held) * 40 == known.total:
                    break
        return held

    before = count()
    assert max(anyio.run(read)) - before <= 80  # those told last, and those that come next


def test_a_long_answer_is_made_off_the_event_loop(
    client: TestClient, job: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.post("logs", batch(0, "one"))
    threads = []
    text = route._text
    monkeypatch.setattr(route, "_text", lambda lines: threads.append(threading.get_ident()) or text(lines))
    assert client.get(f"/jobs/{job}/logs").text.endswith("one\n")
    assert client.portal is not None
    assert threads
    assert client.portal.call(threading.get_ident) not in threads


def test_lines_go_on_over_attempts(client: TestClient, job: str, worker: Worker) -> None:
    worker.post("logs", batch(0, "first"))
    worker.finish("released")
    worker.claim(job)
    worker.post("logs", batch(0, "second"))
    page = client.get(f"/jobs/{job}/logs", headers={"accept": "application/json"}).json()
    assert [(line["number"], line["attempt"]) for line in page["items"]] == [(1, 1), (2, 2)]


def test_a_finished_job_is_followed_to_its_end(client: TestClient, job: str, worker: Worker) -> None:
    worker.post("logs", batch(0, "one", "two"))
    worker.finish("succeeded")
    answer = client.get(f"/jobs/{job}/logs?follow=true&tail=1")
    assert answer.text == "2026-01-01 00:00:00  INFO     two\n"


@ONE_DATABASE
@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"at": AT, "text": "x" * (LINE_CHARACTERS + 1)}],
        [{"at": AT, "text": "a\0b"}],
        [{"at": AT, "text": "x", "level": "loud"}],
        [{"at": "0001-01-01T00:00:00Z", "text": "x"}],
        [{"at": AT, "text": "x"}] * (MAX_LINES + 1),
    ],
)
def test_what_is_no_log_is_refused(job: str, worker: Worker, lines: list[dict[str, str]]) -> None:
    assert worker.post("logs", {"sequence": 0, "lines": lines}).status_code == 422


def test_a_stale_attempt_may_not_log(job: str, worker: Worker) -> None:
    worker.finish("released")
    assert worker.post("logs", batch(0, "x")).status_code == 409
