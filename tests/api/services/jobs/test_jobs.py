"""Posting, listing, reading and cancelling jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.database import Database
from api.models import ID, Job, new_id
from tests.support.worker_calls import Worker

PostJob = Callable[..., str]


def test_posted_job_is_queued_with_every_default(client: TestClient, spec: dict[str, Any]) -> None:
    labels = {"team": "cells", "stage": "a/b"}
    answer = client.post("/jobs", json={"kind": "train", "name": " first ", "labels": labels, "spec": spec})

    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}" == job["links"]["self"]
    assert (job["status"], job["name"], job["labels"]) == ("queued", "first", labels)
    assert job["spec_version"] == job["spec"]["version"] == 1
    assert job["spec"]["optimizer"]["momentum"] == 0.9
    assert [(t["from_status"], t["to_status"], t["reason"]) for t in job["transitions"]] == [
        (None, "queued", "submitted")
    ]
    assert job["warnings"] == []
    assert "no worker on the CPU" in job.pop("notes")[0]
    assert client.get(f"/jobs/{job['id']}").json() == job


def test_what_was_found_in_its_data_stays_with_a_job_and_its_retry(client: TestClient, spec: dict[str, Any]) -> None:
    spec["data"]["classes"] = ["ring"]
    job = client.post("/jobs", json={"kind": "train", "name": "one class", "spec": spec}).json()
    client.post(f"/jobs/{job['id']}/cancel")
    again = client.post(f"/jobs/{job['id']}/retry").json()

    assert [(found["pointer"], found["kind"], found["ids"]) for found in job["warnings"]] == [
        (f"/spec/data/{split}/annotations", "other_class", [2]) for split in ("train", "val")
    ]
    assert client.get(f"/jobs/{job['id']}").json()["warnings"] == job["warnings"] == again["warnings"]
    assert not any("warnings" in item for item in client.get("/jobs").json()["items"])


def test_a_job_from_before_its_warnings_were_kept(client: TestClient, post_job: PostJob, database: Database) -> None:
    job = post_job()
    with database.transaction() as session:
        session.execute(update(Job).values(warnings=None))

    assert client.get(f"/jobs/{job}").json()["warnings"] == []


def test_times_carry_their_zone(client: TestClient, post_job: PostJob) -> None:
    job = client.get(f"/jobs/{post_job()}").json()

    for text in (job["created_at"], job["transitions"][0]["at"]):
        assert datetime.fromisoformat(text).utcoffset() == timedelta(0)


def test_dry_run_stores_nothing(client: TestClient, spec: dict[str, Any]) -> None:
    order = {"kind": "train", "name": "x", "labels": {"a": "b"}, "spec": spec}
    answer = client.post("/jobs?dry_run=true", json=order)

    assert answer.status_code == 200
    assert "location" not in answer.headers
    assert answer.json()["spec"]["batch_size"] == 16
    assert answer.json()["labels"] == {"a": "b"}
    assert client.get("/jobs").json() == {"items": [], "has_more": False}


def test_ids_sort_by_time() -> None:
    ids = [new_id() for _ in range(2000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == 2000
    assert all(ID.fullmatch(one) and one[12] == "7" and one[16] in "89ab" for one in ids)


def test_pages_lead_through_all_jobs_newest_first(client: TestClient, post_job: PostJob) -> None:
    ids = [post_job(f"job {n}") for n in range(5)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    for _ in range(3):
        page = client.get("/jobs", params=query).json()
        seen += [job["id"] for job in page["items"]]
        query["after"] = seen[-1]

    assert seen == ids[::-1]
    assert page["has_more"] is False


def test_list_filters_by_status_and_labels(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    both = post_job(labels={"team": "a", "run": "1=2"})
    one = post_job(labels={"team": "a"})
    post_job(labels={"team": "b"})
    worker.claim(one)

    def found(**query: Any) -> list[str]:
        answer = client.get("/jobs", params=query)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["items"]]

    assert found(label="team=a") == [one, both]
    assert found(label=["team=a", "run=1=2"]) == [both]
    assert found(label="team=a", status="running") == [one]
    assert len(found(status=["running", "queued"])) == 3
    assert found(label="team=") == []


def test_queued_job_is_cancelled_at_once(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()

    first = client.post(f"/jobs/{job}/cancel")
    again = client.post(f"/jobs/{job}/cancel")

    assert first.status_code == 200
    assert first.json()["status"] == "cancelled"
    assert first.json()["finished_at"] is not None
    assert again.json() == first.json()
    assert worker.claim(job).status_code == 409


def test_running_job_is_cancelled_by_its_worker(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)

    asked = client.post(f"/jobs/{job}/cancel")
    assert asked.json()["status"] == "running"
    assert asked.json()["cancel_requested_at"] is not None
    assert client.post(f"/jobs/{job}/cancel").json() == asked.json()
    assert worker.post("heartbeat").json()["command"] == "cancel"
    assert worker.get("commands?wait=20").json() == {"command": "cancel"}

    assert worker.finish("cancelled").json() == {"job": job, "status": "cancelled", "retried": False}
    final = client.get(f"/jobs/{job}").json()
    assert final["status"] == "cancelled"
    assert final["transitions"][-1]["reason"] == "cancelled by the user"
    assert final["attempts"][0]["status"] == "cancelled"


@pytest.mark.parametrize("outcome", ["released", "failed"])
def test_cancelled_job_is_not_queued_again(client: TestClient, post_job: PostJob, worker: Worker, outcome: str) -> None:
    job = post_job()
    worker.claim(job)
    client.post(f"/jobs/{job}/cancel")

    assert worker.finish(outcome).json()["status"] == "cancelled"


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_finished_job_cannot_be_cancelled(client: TestClient, post_job: PostJob, worker: Worker, outcome: str) -> None:
    job = post_job()
    worker.claim(job)
    failure = {"failure_class": "user", "message": "no"}
    worker.finish(outcome, failure=failure if outcome == "failed" else None)

    answer = client.post(f"/jobs/{job}/cancel")
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"the job has {outcome}"
    assert client.get(f"/jobs/{job}").json()["status"] == outcome


def test_whole_life(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    claim = worker.claim(job).json()
    assert (claim["job"], claim["fencing_token"], claim["resume"], claim["teacher"]) == (job, 1, None, None)
    assert claim["spec"] == client.get(f"/jobs/{job}").json()["spec"]

    at = "2026-01-01T00:00:00Z"
    progress = {"phase": "training", "step": 10, "total_steps": 20, "loss": 1.5, "eta_seconds": 3.0}
    points = [{"key": "loss", "step": 10, "value": 1.5, "at": at}]
    assert worker.post("metrics", {"sequence": 0, "points": points, "progress": progress}).status_code == 204
    assert client.get(f"/jobs/{job}").json()["progress"] | progress == client.get(f"/jobs/{job}").json()["progress"]

    assert worker.finish("succeeded", result={"best_ap": 0.5, "odd": [float("1e300")]}).json() == {
        "job": job,
        "status": "succeeded",
        "retried": False,
    }
    final = client.get(f"/jobs/{job}").json()
    assert [t["to_status"] for t in final["transitions"]] == ["queued", "running", "succeeded"]
    assert final["started_at"] <= final["finished_at"]
    assert final["attempts"][0]["ended_at"] is not None
    assert worker.claim(job).status_code == 409
