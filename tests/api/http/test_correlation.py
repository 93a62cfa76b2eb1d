"""One id for each request: in its answer, in its problem, in every line that it causes, on the job that it makes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.database import Database
from api.http.correlation import ROUTINE
from api.models import Job
from tests.support.databases import ONE_DATABASE
from tests.support.worker_calls import WORKER
from wire.process_log import FIELDS, formatter, readable

PostJob = Callable[..., str]
HEADER = "X-Request-ID"


class Lines(logging.Handler):
    """What the process would write, line by line."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(formatter("json"))
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))

    def of(self, logger: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["logger"] == logger]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("api")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@ONE_DATABASE
@pytest.mark.parametrize("given", ["a", "0f2bd0a4-2f0c-4f6a-9f3c-5c0e7d6f5f9e", "Root=1-6789:a/b+c@d.e_f", "x" * 128])
def test_the_callers_own_id_is_answered(client: TestClient, given: str) -> None:
    for path in ("/health", "/jobs/nothing", "/nowhere"):
        assert client.get(path, headers={HEADER: given}).headers[HEADER] == given


@ONE_DATABASE
@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", 'a"', "a\tb", "é", "a,b", "a]", "${x}", "a\x1bb"])
def test_what_is_no_id_is_replaced(client: TestClient, given: str | None) -> None:
    headers = {} if given is None else {HEADER: given.encode()}
    told = client.get("/health", headers=headers).headers[HEADER]
    assert str(UUID(told)) == told
    assert client.get("/health", headers=headers).headers[HEADER] != told


@ONE_DATABASE
@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/jobs/nothing", b"", 404),
        ("GET", "/nowhere", b"", 404),
        ("PUT", "/jobs", b"", 405),
        ("POST", "/jobs", b"{", 415),
        ("GET", "/jobs?limit=x", b"", 422),
        ("POST", "/jobs", b" " * 1_000_001, 413),
        ("POST", "/worker/jobs/x/claim", b"", 401),
    ],
)
def test_every_problem_names_its_request(
    client: TestClient, method: str, path: str, content: bytes, status: int
) -> None:
    answer = client.request(method, path, content=content, headers={HEADER: "mine"})
    assert (answer.status_code, answer.headers[HEADER], answer.json()["request_id"]) == (status, "mine", "mine")


def test_what_nobody_foresaw_names_its_request_too(app: FastAPI, client: TestClient, lines: Lines) -> None:
    def fail() -> None:
        raise RuntimeError("unforeseen")

    app.add_api_route("/jobs/x/fail", fail)
    answer = client.get("/jobs/x/fail", headers={HEADER: "mine"})
    assert (answer.status_code, answer.headers[HEADER], answer.json()["request_id"]) == (500, "mine", "mine")
    (line,) = lines.of("api.access")
    assert (line["status"], line["request_id"]) == (500, "mine")


def test_a_request_has_one_line_without_its_query(client: TestClient, post_job: PostJob, lines: Lines) -> None:
    client.get("/jobs?label=secret=value", headers={HEADER: "mine"})
    (line,) = lines.of("api.access")
    assert line["event"].startswith("GET /jobs 200 in ")
    assert (line["method"], line["path"], line["status"], line["level"]) == ("GET", "/jobs", 200, "info")
    assert (line["caller"], line["request_id"]) == ("local", "mine")
    assert 0 < line["milliseconds"] < 60_000
    assert "secret" not in json.dumps(lines.lines)


@ONE_DATABASE
@pytest.mark.parametrize("layout", ["text", "json"])
def test_a_path_forges_no_line(client: TestClient, lines: Lines, layout: Any) -> None:
    records: list[logging.LogRecord] = []
    lines.emit = records.append  # type: ignore[method-assign]
    client.get("/jobs/x%0a2026-01-01T00:00:00Z%20INFO%20api:%20forged%1b[31m", headers={HEADER: "mine"})
    written = [formatter(layout).format(record) for record in records]
    assert any("forged" in text for text in written)
    for text in written:
        assert text.isprintable()


def test_what_comes_every_few_seconds_is_told_to_whoever_looks_closely(client: TestClient, lines: Lines) -> None:
    client.get("/health")
    client.get("/jobs/nothing")  # refusals are always told
    client.post("/worker/attempts/x/heartbeat", headers=WORKER)
    levels = {(line["path"], line["level"]) for line in lines.of("api.access")}
    assert levels == {
        ("/health", "debug"),
        ("/jobs/nothing", "info"),
        ("/worker/attempts/x/heartbeat", "info"),
    }
    for quiet in ("GET /jobs/1", "GET /jobs/1/metrics", "POST /worker/attempts/1/metrics"):
        assert ROUTINE.fullmatch(quiet)
    for loud in (
        "POST /jobs/1",
        "DELETE /jobs/1",
        "GET /jobs",
        "POST /worker/attempts/1/finish",
        "GET /jobs/1/weights",
    ):
        assert not ROUTINE.fullmatch(loud)


def test_a_job_keeps_the_id_of_its_request(client: TestClient, spec: dict[str, Any], lines: Lines) -> None:
    order = {"kind": "train", "name": "x", "spec": spec}
    job = client.post("/jobs", json=order, headers={HEADER: "posted"}).json()
    assert job["request_id"] == "posted"
    answer = client.post(f"/worker/jobs/{job['id']}/claim", json={"worker": "w"}, headers=WORKER | {HEADER: "claimed"})
    assert answer.json()["request_id"] == "posted"
    (moved,) = lines.of("api.services.jobs.transitions")
    assert (moved["event"], moved["job"], moved["request_id"]) == (
        "queued → running: claimed by w",
        job["id"],
        "posted",  # not that of the claim
    )
    client.post(f"/jobs/{job['id']}/cancel", headers={HEADER: "cancelled"})
    attempt = {"Fencing-Token": str(answer.json()["fencing_token"]), **WORKER}
    client.post(f"/worker/attempts/{answer.json()['attempt']}/finish", json={"outcome": "cancelled"}, headers=attempt)
    again = client.post(f"/jobs/{job['id']}/retry", headers={HEADER: "again"}).json()
    assert again["request_id"] == "again"


def test_a_job_from_before_has_none(client: TestClient, post_job: PostJob, database: Database) -> None:
    job = post_job()
    with database.transaction() as session:
        session.get_one(Job, job).request_id = None
    assert client.get(f"/jobs/{job}").json()["request_id"] is None
    assert client.post(f"/worker/jobs/{job}/claim", json={"worker": "w"}, headers=WORKER).json()["request_id"] == ""


def record(message: str, **extra: Any) -> logging.LogRecord:
    return logging.getLogger("api.x").makeRecord("api.x", logging.INFO, "", 0, message, (), None, extra=extra)


def test_only_what_lines_are_made_of_is_written() -> None:
    text = formatter("text", job="1").format(record("a\r\nb\u2028c", color_message="colour", attempt='"x] y'))
    head, _, fields = text.partition(" [")
    assert head.endswith(" INFO api.x: a\\r\\nb\\u2028c")
    assert fields == r'job=1 attempt="\"x] y"]'
    told = json.loads(formatter("json", job="1", rank=None).format(record("a", color_message="colour", rank=2)))
    assert told.keys() - {"timestamp"} == {"event", "level", "logger", "job", "rank"}


def test_what_was_raised_is_indented() -> None:
    failed = record("failed")
    try:
        raise ValueError("wrong\n2026-01-01T00:00:00Z INFO api: forged")
    except ValueError as error:
        failed.exc_info = (type(error), error, error.__traceback__)
    first, *others = formatter("text").format(failed).split("\n")
    assert first.endswith("INFO api.x: failed")
    assert len(others) > 3
    assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize("layout", ["text", "json"])
def test_people_read_one_jobs_lines_without_what_they_all_say(layout: Any) -> None:
    line = formatter(layout, **dict.fromkeys(FIELDS, "id")).format(record("step [3]"))
    assert readable(line).endswith("Z INFO api.x: step [3]")
    assert readable("Traceback [most recent call last]") == "Traceback [most recent call last]"
    for strange in ("{", "{}", "{1}", '{"event": 1}', "[a=b]"):
        assert readable(strange) == strange
