"""The log of a job while it runs: kept in order, told once, and never without a bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.schemas.logs import LINE_CHARACTERS, MAX_LINES
from api.settings import Settings
from tests.api.conftest import Worker
from tests.api.test_events import stream

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
