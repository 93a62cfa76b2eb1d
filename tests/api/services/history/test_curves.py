"""Precision-recall curves: files that are found through the evaluations they belong to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.databases import ONE_DATABASE
from tests.support.evaluations import drawn, evaluation, report_with_curves
from tests.support.worker_calls import Worker
from wire.artifacts import curves_artifact

PostJob = Callable[..., str]


@pytest.fixture
def job(post_job: PostJob, worker: Worker) -> str:
    """A job that has evaluated its teacher and, three times, its student; the last curves are still to come."""
    found = post_job()
    worker.claim(found)
    report_with_curves(worker, "teacher", 0)
    report_with_curves(worker, "student", 10)
    report_with_curves(worker, "student", 20)
    report_with_curves(worker, "student", 30, curves=False)
    return found


def items(client: TestClient, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/jobs/{job}/evaluations").json()["items"]
    return found


def test_each_evaluation_leads_to_its_curves(client: TestClient, job: str) -> None:
    links = [(item["model"], item["step"], item["curves"]) for item in items(client, job)]
    assert links == [
        ("teacher", 0, f"/jobs/{job}/evaluations/0/curves?model=teacher"),
        ("student", 10, f"/jobs/{job}/evaluations/10/curves?model=student"),
        ("student", 20, f"/jobs/{job}/evaluations/20/curves?model=student"),
        ("student", 30, None),
    ]
    for model, step, link in links[:3]:
        answer = client.get(link)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.content == drawn(model, step)
    assert client.get(f"/jobs/{job}/evaluations/10/curves").json()["model"] == "student"
    head = client.head(f"/jobs/{job}/evaluations/10/curves")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(drawn("student", 10))))


@ONE_DATABASE
def test_a_client_that_has_them_is_not_sent_them_again(client: TestClient, job: str) -> None:
    path = f"/jobs/{job}/evaluations/20/curves"
    tag = client.get(path).headers["etag"]
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_curves_that_there_are_not_are_told_with_those_that_there_are(client: TestClient, job: str) -> None:
    problem = client.get(f"/jobs/{job}/evaluations/30/curves")
    assert (problem.status_code, problem.json()["detail"]) == (404, "there are no curves of the student at step 30")
    assert problem.json()["remedy"] == "There are some for the steps 10, 20."
    assert "steps 0." in client.get(f"/jobs/{job}/evaluations/7/curves?model=teacher").json()["remedy"]
    assert client.get(f"/jobs/{'0' * 32}/evaluations/7/curves").status_code == 404


def test_a_job_without_curves_says_what_it_does(client: TestClient, post_job: PostJob) -> None:
    problem = client.get(f"/jobs/{post_job()}/evaluations/7/curves")
    assert (problem.status_code, problem.json()["remedy"]) == (404, "The job is queued.")


@ONE_DATABASE
@pytest.mark.parametrize("query", ["7/curves?model=best", "-1/curves", "x/curves", f"{2**53 + 1}/curves"])
def test_what_cannot_be_an_evaluation_is_refused(client: TestClient, job: str, query: str) -> None:
    assert client.get(f"/jobs/{job}/evaluations/{query}").status_code == 422


def test_curves_do_not_crowd_the_artifacts(client: TestClient, job: str) -> None:
    assert client.get(f"/jobs/{job}/artifacts").json() == {"items": []}
    problem = client.get(f"/jobs/{job}/artifacts/log.txt").json()
    assert "curves" not in problem["remedy"]
    assert client.get(f"/jobs/{job}/artifacts/{curves_artifact('student', 10)}").content == drawn("student", 10)


def test_curves_behind_the_checkpoint_belong_to_no_evaluation_after_a_resume(
    client: TestClient, job: str, worker: Worker
) -> None:
    worker.finish("released")
    worker.claim(job)  # from the beginning: there is no checkpoint
    assert items(client, job) == []
    report_with_curves(worker, "teacher", 0, curves=False)
    assert [item["curves"] for item in items(client, job)] == [f"/jobs/{job}/evaluations/0/curves?model=teacher"]


def test_numbers_of_each_class_come_back(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    found = post_job()
    worker.claim(found)
    numbers = {"ring": {"AP50": 0.5, "AP75": 0.25, "AR100": -1.0}}
    body = evaluation("student", 5, 0.5) | {"class_metrics": numbers}
    assert worker.post("evaluations", body).status_code == 204
    assert items(client, found)[0]["class_metrics"] == numbers
    wrong = evaluation("student", 6, 0.5) | {"class_metrics": {"ring": {"AP50": 0.5}}}
    assert worker.post("evaluations", wrong).status_code == 422
