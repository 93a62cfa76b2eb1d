"""Metric batches and evaluations, and reading them back as one series."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, func, select

from api.database import Database
from api.main import create_app
from api.models import Attempt, MetricPoint
from api.services.history import reports
from api.settings import Settings
from tests.support.databases import ONE_DATABASE
from tests.support.evaluations import NUMBERS, evaluation
from tests.support.worker_calls import WORKER, Worker

PostJob = Callable[..., str]
AT = "2026-01-01T00:00:00.123456Z"


def points(steps: range | list[int], value: float = 1.0, keys: tuple[str, ...] = ("loss",)) -> list[dict[str, Any]]:
    return [{"key": key, "step": step, "value": value, "at": AT} for step in steps for key in keys]


def series(client: TestClient, job: str, **query: Any) -> list[tuple[int, str, Any]]:
    answer = client.get(f"/jobs/{job}/metrics", params=query)
    assert answer.status_code == 200, answer.text
    return [(row["step"], row["key"], row["value"]) for row in answer.json()["items"]]


@pytest.fixture
def resumed(post_job: PostJob, worker: Worker, database: Database) -> tuple[str, Worker]:
    """A job whose first attempt reported steps 0..50 and whose second goes on from the checkpoint of step 30."""
    job = post_job()
    worker.claim(job)
    worker.post("metrics", {"sequence": 0, "points": points(range(0, 51, 10))})
    worker.finish("released")
    worker.claim(job)
    with database.transaction() as session:
        session.get_one(Attempt, worker.attempt).resumed_from_step = 30
    return job, worker


def test_batches_are_stored_once(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    batch = {"sequence": 7, "points": points([1, 2])}
    for _ in range(2):
        assert worker.post("metrics", batch).status_code == 204
    other = {"sequence": 7, "points": points([3])}
    assert worker.post("metrics", other).status_code == 204
    assert series(client, job) == [(1, "loss", 1.0), (2, "loss", 1.0)]


def test_a_batch_is_stored_whole_or_not_at_all(post_job: PostJob, worker: Worker, database: Database) -> None:
    worker.claim(post_job())
    bad = [*points([1]), {"key": "loss", "step": -1, "value": 1, "at": AT}]
    assert worker.post("metrics", {"sequence": 0, "points": bad}).status_code == 422
    too_many = worker.post("metrics", {"sequence": 0, "points": points(range(1001))})
    assert too_many.status_code == 413
    assert "1001 points, and at most 1000" in too_many.json()["detail"]
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(MetricPoint)) == 0
    assert worker.post("metrics", {"sequence": 0, "points": points(range(1000))}).status_code == 204


def test_a_fault_in_the_middle_of_a_batch_undoes_it_all(
    client: TestClient, post_job: PostJob, worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the mark that tells a repetition: it must be stored then."""
    job = post_job()
    worker.claim(job)
    batch = {"sequence": 0, "points": points(range(100)), "progress": {"step": 99}}

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("after the points were written")

    with monkeypatch.context() as patch:
        patch.setattr(reports, "append", fail)
        assert worker.post("metrics", batch).status_code == 500
    assert series(client, job) == []
    assert worker.post("metrics", batch).status_code == 204
    assert len(series(client, job)) == 100


@pytest.fixture
def statements(database: Database) -> Iterator[list[str]]:
    """What is sent to the database."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield sent
    event.remove(database.engine, "before_cursor_execute", note)


def test_a_repetition_costs_no_more_than_the_first_try(
    post_job: PostJob, worker: Worker, statements: list[str]
) -> None:
    worker.claim(post_job())
    batch = {"sequence": 0, "points": points(range(1000)), "progress": {"step": 999}}
    costs = []
    for _ in range(3):
        statements.clear()
        assert worker.post("metrics", batch).status_code == 204
        costs.append([statement for statement in statements if "pulse" not in statement])
    assert any("INSERT INTO metric_points" in statement for statement in costs[0])
    for again in costs[1:]:
        assert len(again) < len(costs[0])
        assert not any("metric_points" in statement or statement.startswith("UPDATE") for statement in again)


def test_a_batch_has_a_bound_in_bytes_whatever_other_bodies_have(make_settings: Callable[..., Settings]) -> None:
    app = create_app(make_settings(body_limit=1000))
    longest = [
        {"key": "k" * 100, "step": 2**53 - step, "value": -1.2345678901234567e-300, "at": AT} for step in range(1000)
    ]
    with TestClient(app, raise_server_exceptions=False) as client:
        path = f"/worker/attempts/{'0' * 32}/metrics"
        headers = WORKER | {"Fencing-Token": "1"}
        taken = client.post(path, json={"sequence": 0, "points": longest}, headers=headers)
        assert taken.status_code == 404, taken.text  # read and understood: there is only no such attempt
        refused = client.post(path, content=b" " * 1_000_001, headers=headers | {"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["detail"]) == (413, "the body is larger than 1000000 bytes")


def test_non_finite_values_come_back(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    values = ["NaN", "Infinity", "-Infinity", -0.0, 1e308, 5e-324]
    batch = [{"key": "loss", "step": step, "value": value, "at": AT} for step, value in enumerate(values)]
    assert worker.post("metrics", {"sequence": 0, "points": batch}).status_code == 204
    assert [value for _, _, value in series(client, job)] == values
    row = client.get(f"/jobs/{job}/metrics").json()["items"][0]
    assert row["at"] == AT
    assert row["attempt"] == 1


@pytest.mark.parametrize("at", ["2026-01-01T00:00:00.123456", "2025-12-31T19:00:00.123456-05:00"])
def test_times_are_kept_in_utc(client: TestClient, post_job: PostJob, worker: Worker, at: str) -> None:
    """Without a zone, too: never in the zone of the machine that happens to run the API."""
    job = post_job()
    worker.claim(job)
    assert worker.post("metrics", {"sequence": 0, "points": [points([1])[0] | {"at": at}]}).status_code == 204
    assert client.get(f"/jobs/{job}/metrics").json()["items"][0]["at"] == AT


def test_a_loss_that_is_no_number_leaves_the_progress_readable(
    client: TestClient, post_job: PostJob, worker: Worker
) -> None:
    job = post_job()
    worker.claim(job)
    text = '{"sequence": 0, "progress": {"step": 3, "loss": NaN, "eta_seconds": Infinity}}'
    headers = worker.headers | {"Content-Type": "application/json"}
    path = f"/worker/attempts/{worker.attempt}/metrics"
    assert client.post(path, content=text, headers=headers).status_code == 204
    progress = client.get(f"/jobs/{job}").json()["progress"]
    assert (progress["step"], progress["loss"], progress["eta_seconds"]) == (3, None, None)


def test_the_manifest_may_hold_anything(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    worker.claim(post_job())
    text = '{"outcome": "succeeded", "result": {"a": [NaN, -Infinity, {"b": "\\u0000"}], "n": 123456789012345678901}}'
    headers = worker.headers | {"Content-Type": "application/json"}
    answer = client.post(f"/worker/attempts/{worker.attempt}/finish", content=text, headers=headers)
    assert answer.status_code == 200, answer.text


def test_a_new_attempt_replaces_what_lies_behind_its_checkpoint(
    client: TestClient, resumed: tuple[str, Worker]
) -> None:
    job, worker = resumed
    assert [step for step, _, _ in series(client, job)] == [0, 10, 20, 30]

    worker.post("metrics", {"sequence": 0, "points": points([30, 40, 60], value=2.0)})
    assert series(client, job) == [(s, "loss", 1.0) for s in (0, 10, 20, 30)] + [(s, "loss", 2.0) for s in (40, 60)]
    assert [step for step, _, _ in series(client, job, attempt=1)] == [0, 10, 20, 30, 40, 50]
    assert [step for step, _, _ in series(client, job, attempt=2)] == [30, 40, 60]
    assert client.get(f"/jobs/{job}/metrics?attempt=3").status_code == 404


def test_a_restart_from_the_beginning_replaces_everything(
    client: TestClient, resumed: tuple[str, Worker], database: Database
) -> None:
    job, worker = resumed
    worker.post("metrics", {"sequence": 0, "points": points([40], value=2.0)})
    worker.finish("released")
    worker.claim(job)
    assert series(client, job) == []
    worker.post("metrics", {"sequence": 0, "points": points([0], value=3.0)})
    assert series(client, job) == [(0, "loss", 3.0)]


def test_an_older_checkpoint_hides_both_earlier_attempts(
    client: TestClient, resumed: tuple[str, Worker], database: Database
) -> None:
    job, worker = resumed
    worker.post("metrics", {"sequence": 0, "points": points([40], value=2.0)})
    worker.finish("released")
    worker.claim(job)
    with database.transaction() as session:
        session.get_one(Attempt, worker.attempt).resumed_from_step = 10
    worker.post("metrics", {"sequence": 0, "points": points([20, 50], value=3.0)})
    assert series(client, job) == [(0, "loss", 1.0), (10, "loss", 1.0), (20, "loss", 3.0), (50, "loss", 3.0)]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 7, 100])
def test_pages_hold_whole_steps_and_lead_through_all(
    client: TestClient, resumed: tuple[str, Worker], limit: int
) -> None:
    job, worker = resumed
    worker.post("metrics", {"sequence": 0, "points": points([40, 50], keys=("loss", "lr", "grad"))})
    everything = series(client, job, limit=1000)
    found: list[tuple[int, str, Any]] = []
    path = f"/jobs/{job}/metrics?limit={limit}"
    while path:
        answer = client.get(path)
        body = answer.json()
        rows = [(row["step"], row["key"], row["value"]) for row in body["items"]]
        assert len(rows) <= limit or len({step for step, _, _ in rows}) == 1
        assert body["has_more"] is (body["next_step"] is not None)
        found += rows
        path = answer.links["next"]["url"] if "next" in answer.links else ""
    assert found == everything
    assert len(everything) == 10


def test_keys_select(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    worker.post("metrics", {"sequence": 0, "points": points([1, 2], keys=("a", "b", "c"))})
    assert series(client, job, key="b") == [(1, "b", 1.0), (2, "b", 1.0)]
    assert len(series(client, job, key=["a", "c"], since_step=2)) == 2
    assert series(client, job, key="d") == []


def test_csv_when_asked(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    batch = [*points([1], value=0.1), {"key": "loss", "step": 2, "value": "NaN", "at": AT}]
    worker.post("metrics", {"sequence": 0, "points": batch})
    answer = client.get(f"/jobs/{job}/metrics", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["vary"] == "Accept"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert rows == [
        {"key": "loss", "step": "1", "value": "0.1", "at": AT, "attempt": "1"},
        {"key": "loss", "step": "2", "value": "NaN", "at": AT, "attempt": "1"},
    ]


@ONE_DATABASE
@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("text/csv;q=0.5, application/json;q=0.4", "text/csv"),
        ("text/csv;q=0.5, */*", "application/json"),
        ("text/*", "text/csv"),
        ("application/json;q=0, */*;q=0.1", "text/csv"),
        ("TEXT/CSV", "text/csv"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
        ("text/html", "application/problem+json"),
        ("text/csv;q=x", "application/problem+json"),
    ],
)
def test_accept(client: TestClient, post_job: PostJob, accept: str, media_type: str) -> None:
    answer = client.get(f"/jobs/{post_job()}/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.status_code == (406 if "problem" in media_type else 200)


def test_evaluations(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    for report in (
        evaluation("teacher", 0, 0.4),
        evaluation("student", 10, 0.1, best=True),
        evaluation("student", 20, 0.3, best=True),
        evaluation("student", 30, 0.2),
    ):
        for _ in range(2):
            assert worker.post("evaluations", report).status_code == 204
    items = client.get(f"/jobs/{job}/evaluations").json()["items"]
    assert [(e["model"], e["step"], e["metrics"]["AP"], e["attempt"]) for e in items] == [
        ("teacher", 0, 0.4, 1),
        ("student", 10, 0.1, 1),
        ("student", 20, 0.3, 1),
        ("student", 30, 0.2, 1),
    ]
    assert list(items[0]["metrics"]) == NUMBERS
    assert items[0]["per_class"] == {"ring": 0.4}
    found = client.get(f"/jobs/{job}").json()
    assert (found["best_ap"], found["teacher_ap"]) == (0.3, 0.4)


def test_nothing_to_measure_is_no_best(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    worker.post("evaluations", evaluation("student", 1, -1.0, best=True))
    assert client.get(f"/jobs/{job}").json()["best_ap"] is None


def test_evaluations_after_a_resume(client: TestClient, resumed: tuple[str, Worker], database: Database) -> None:
    job, second = resumed
    with database.transaction() as session:
        first = session.scalars(select(Attempt).where(Attempt.number == 1)).one()
        first.status = "running"
    old = Worker(client)
    old.attempt, old.token = first.id, 1
    for report in (evaluation("teacher", 0, 0.4), evaluation("student", 20, 0.1), evaluation("student", 40, 0.2)):
        assert old.post("evaluations", report).status_code == 204
    second.post("evaluations", evaluation("teacher", 0, 0.4))
    second.post("evaluations", evaluation("student", 40, 0.3))

    items = client.get(f"/jobs/{job}/evaluations").json()["items"]
    found = [(e["model"], e["step"], e["metrics"]["AP"], e["attempt"]) for e in items]
    assert found == [("teacher", 0, 0.4, 2), ("student", 20, 0.1, 1), ("student", 40, 0.3, 2)]
