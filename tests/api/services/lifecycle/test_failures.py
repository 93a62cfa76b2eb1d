"""What is kept of failures: every attempt with its class, a remedy, and the last 200 lines of its log, in bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient

from api.database import Database
from api.services.lifecycle import failures
from api.settings import Settings
from tests.support.leases import reap_after
from tests.support.worker_calls import Worker
from wire.jobs import FailureClass
from wire.remedies import REMEDIES

PostJob = Callable[..., str]
AT = "2026-01-01T00:00:00Z"


def say(worker: Worker, first: int, count: int) -> None:
    """Lines of the log, in batches of a few."""
    for start in range(first, first + count, 70):
        numbers = range(start, min(start + 70, first + count))
        lines = [{"at": AT, "text": f"line {number}"} for number in numbers]
        assert worker.post("logs", {"sequence": start, "lines": lines}).status_code == 204


def attempts(client: TestClient, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/jobs/{job}").json()["attempts"]
    return found


def test_every_class_has_a_remedy() -> None:
    assert REMEDIES.keys() == set(get_args(FailureClass))
    assert all(remedy.endswith(".") for remedy in REMEDIES.values())


@pytest.mark.parametrize("failure_class", sorted(REMEDIES))
def test_a_failure_without_a_remedy_gets_that_of_its_class(
    client: TestClient, post_job: PostJob, worker: Worker, failure_class: FailureClass
) -> None:
    job = post_job()
    worker.claim(job)
    worker.finish("failed", failure={"failure_class": failure_class, "message": "it broke"})
    assert attempts(client, job)[0]["failure"]["remedy"] == REMEDIES[failure_class]


def test_a_remedy_of_its_own_stays(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    failure = {"failure_class": "user", "message": "no such class", "where": "/spec/data", "remedy": "Name it."}
    worker.finish("failed", failure=failure)
    assert client.get(f"/jobs/{job}").json()["failure"] == failure | {"log_tail": []}


def test_every_attempt_is_kept_with_the_last_lines_that_it_reported(
    client: TestClient, post_job: PostJob, worker: Worker, database: Database, settings: Settings
) -> None:
    """A worker that is gone hands in no lines: they are those that it reported while it lived."""
    job = post_job()
    worker.claim(job)
    say(worker, 0, 250)
    reap_after(database, settings, settings.lease_seconds + 1)
    worker.claim(job, "w2")
    say(worker, 1000, 3)
    assert worker.finish("failed", failure={"failure_class": "data", "message": "no image"}).status_code == 200

    found = client.get(f"/jobs/{job}").json()
    first, second = (attempt["failure"] for attempt in found["attempts"])
    assert [attempt["worker"] for attempt in found["attempts"]] == ["w1", "w2"]
    assert (first["failure_class"], second["failure_class"]) == ("lost", "data")
    assert first["remedy"] == REMEDIES["lost"]
    assert first["log_tail"] == [f"2026-01-01 00:00:00  INFO     line {number}" for number in range(50, 250)]
    assert second["log_tail"] == [f"2026-01-01 00:00:00  INFO     line {number}" for number in range(1000, 1003)]
    assert found["failure"] == second
    (listed,) = client.get("/jobs").json()["items"]
    assert listed["failure"] == second | {"log_tail": []}


def test_what_a_worker_hands_in_is_bounded(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    failure = {"failure_class": "data", "message": "m" * 10_000, "remedy": "r" * 10_000}
    tail = ["x" * 3000 for _ in range(failures.TAIL_LINES)]
    assert worker.finish("failed", failure=failure, log_tail=tail).status_code == 200
    kept = attempts(client, job)[0]["failure"]
    assert [len(line) for line in kept["log_tail"]] == [failures.TAIL_CHARACTERS] * 200
    assert (len(kept["message"]), len(kept["remedy"])) == (failures.TEXT_CHARACTERS, failures.TEXT_CHARACTERS)
    assert worker.finish("failed", log_tail=["x"] * 201).status_code == 422  # the wire's own bound
