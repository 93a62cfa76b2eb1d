"""Series in buckets, held against the points that they stand for."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from api.database import Database
from api.models import Attempt, MetricSummary
from api.services.history import downsampling
from tests.support.worker_calls import Worker

PostJob = Callable[..., str]
AT = "2026-01-01T00:00:00Z"
NON_FINITE = ("NaN", "Infinity", "-Infinity")


def rows(values: dict[int, Any], key: str = "loss") -> list[dict[str, Any]]:
    return [{"key": key, "step": step, "value": value, "at": AT} for step, value in values.items()]


def report(worker: Worker, sequence: int, points: list[dict[str, Any]]) -> None:
    for start in range(0, len(points), 1000):
        body = {"sequence": sequence + start, "points": points[start : start + 1000]}
        assert worker.post("metrics", body).status_code == 204


def buckets(client: TestClient, job: str, number: int, **query: Any) -> dict[str, Any]:
    answer = client.get(f"/jobs/{job}/metrics", params={"buckets": number, **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def naive(points: list[dict[str, Any]], width: int) -> list[dict[str, Any]]:
    """What the points of a series, in order, are in buckets of a width."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for point in points:
        found.setdefault((point["step"] // width, point["key"]), []).append(point)
    items = []
    for (place, key), inside in sorted(found.items()):
        values = [point["value"] for point in inside]
        finite = [value for value in values if not isinstance(value, str)]
        items.append(
            {
                "key": key,
                "step": place * width,
                "points": len(inside),
                "min": min(finite, default=None),
                "max": max(finite, default=None),
                "last": values[-1],
                "last_step": inside[-1]["step"],
                "non_finite": [name for name in NON_FINITE if name in values],
            }
        )
    return items


def all_points(client: TestClient, job: str, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(f"/jobs/{job}/metrics", params={"limit": 10_000, **query}).json()
    assert not answer["has_more"]
    found: list[dict[str, Any]] = answer["items"]
    return found


def test_a_spike_survives_and_the_last_point_is_there(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    values: dict[int, Any] = {step: math.sin(step / 700) for step in range(5000)}
    values |= {1234: 1e6, 3456: -1e6, 4321: "NaN", 4322: "Infinity", 4998: "-Infinity"}
    report(worker, 0, rows(values))

    found = buckets(client, job, 20)
    items = found["items"]
    assert 5 <= len(items) <= 20
    assert [bucket["step"] for bucket in items] == [place * found["width"] for place in range(len(items))]
    assert max(bucket["max"] for bucket in items) == 1e6
    assert min(bucket["min"] for bucket in items) == -1e6
    assert (items[-1]["last"], items[-1]["last_step"]) == (values[4999], 4999)
    assert {name for bucket in items for name in bucket["non_finite"]} == set(NON_FINITE)
    assert sum(bucket["points"] for bucket in items) == 5000


def test_a_series_without_a_finite_value(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    report(worker, 0, rows(dict.fromkeys(range(200), "NaN")))
    (only,) = buckets(client, job, 1)["items"]
    assert (only["min"], only["max"], only["last"], only["non_finite"]) == (None, None, "NaN", ["NaN"])


def test_no_points_make_no_buckets(client: TestClient, post_job: PostJob) -> None:
    assert buckets(client, post_job(), 10) == {"width": 1, "items": []}
    assert client.get(f"/jobs/{'0' * 32}/metrics?buckets=10").status_code == 404


def test_a_short_series_is_told_point_by_point(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    report(worker, 0, rows({step: step / 2 for step in range(50)}))
    found = buckets(client, job, 1000)
    assert found["width"] == 1
    assert [bucket["last"] for bucket in found["items"]] == [step / 2 for step in range(50)]


def test_the_number_is_bounded_over_all_keys(
    client: TestClient, post_job: PostJob, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = post_job()
    worker.claim(job)
    report(worker, 0, [row for key in "abcd" for row in rows(dict.fromkeys(range(200), 1.0), key)])
    monkeypatch.setattr(downsampling, "MAX_BUCKETS", 40)
    assert len(buckets(client, job, 40, key="a")["items"]) > 20
    assert 4 < len(buckets(client, job, 40)["items"]) <= 40


def test_csv(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    report(worker, 0, rows({0: 1.5, 1: "NaN", 2: "Infinity", 3: 0.5}))
    answer = client.get(f"/jobs/{job}/metrics?buckets=1", headers={"Accept": "text/csv"})
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert row["non_finite"] == "NaN Infinity"
    assert (row["min"], row["max"], row["last"], row["points"]) == ("0.5", "1.5", "0.5", "4")


def test_what_a_batch_repeats_is_not_counted(
    client: TestClient, post_job: PostJob, worker: Worker, database: Database
) -> None:
    """Neither a batch sent again, nor a point that another batch brought before, nor one twice in a batch."""
    job = post_job()
    worker.claim(job)
    report(worker, 0, rows(dict.fromkeys(range(100), 1.0)))
    report(worker, 0, rows(dict.fromkeys(range(100), 1.0)))
    report(worker, 1, rows({99: 99.0, 100: 2.0}) + rows({100: 77.0}) + rows({3: -99.0}))
    (bucket,) = buckets(client, job, 1)["items"]
    assert (bucket["points"], bucket["min"], bucket["max"], bucket["last"]) == (101, 1.0, 2.0, 2.0)
    with database.reading() as session:
        kept = {
            row.bucket: row.points for row in session.scalars(select(MetricSummary).where(MetricSummary.width == 64))
        }
    assert kept == {0: 64, 1: 37}


VALUE = st.sampled_from(NON_FINITE) | st.floats(-1e9, 1e9, allow_nan=False)
POINT = st.tuples(st.integers(0, 5000), st.sampled_from(["loss", "lr"]), VALUE)
TRIES = st.lists(
    st.tuples(st.integers(0, 4000), st.lists(st.lists(POINT, max_size=30), min_size=1, max_size=3)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tries=TRIES,
    dense=st.booleans(),
    number=st.integers(1, 120),
    since=st.integers(0, 3000),
    until=st.none() | st.integers(2000, 5000),
    key=st.sampled_from([[], ["loss"]]),
)
def test_buckets_are_what_their_points_make(
    client: TestClient,
    post_job: PostJob,
    worker: Worker,
    database: Database,
    tries: list[tuple[int, list[list[tuple[int, str, Any]]]]],
    dense: bool,
    number: int,
    since: int,
    until: int | None,
    key: list[str],
) -> None:
    """Whatever was reported, in whatever order, and wherever attempts were resumed."""
    job = post_job()
    for resumed_from, batches in tries:
        worker.claim(job)
        with database.transaction() as session:
            session.get_one(Attempt, worker.attempt).resumed_from_step = resumed_from
        if dense:
            report(worker, 1000, rows({step: step % 97 for step in range(resumed_from, 5000, 11)}))
        for sequence, batch in enumerate(batches):
            points = [{"key": key, "step": step, "value": value, "at": AT} for step, key, value in batch]
            report(worker, sequence, points)
        worker.finish("released")

    query: dict[str, Any] = {"since_step": since, "key": key}
    found = buckets(client, job, number, **query, **({} if until is None else {"until_step": until}))
    points = [row for row in all_points(client, job, **query) if until is None or row["step"] <= until]
    assert found["items"] == naive(points, found["width"])
    for name in {bucket["key"] for bucket in found["items"]}:
        assert len([bucket for bucket in found["items"] if bucket["key"] == name]) <= number
