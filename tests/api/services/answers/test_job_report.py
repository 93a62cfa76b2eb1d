"""`GET /jobs/{id}/report`: JSON, a page, a model card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from report.charts import vega
from tests.support.api_client import problem
from tests.support.databases import ONE_DATABASE
from tests.support.evaluations import report_best, report_with_curves
from tests.support.worker_calls import Worker, upload
from wire.artifacts import BEST_WEIGHTS

PostJob = Callable[..., str]


@pytest.fixture
def job(post_job: PostJob, worker: Worker) -> str:
    """A training that has ended: it measured its student twice and left its weights."""
    found = post_job("<b>mine</b>")
    worker.claim(found)
    report_with_curves(worker, "student", 10)
    report_best(worker, 10, 0.4)
    report_best(worker, 20, 0.3)
    upload(worker, BEST_WEIGHTS, b"weights")
    assert worker.finish("succeeded", result={"student": {"parameters": 7}, "seconds": 2.5}).status_code == 200
    return found


def test_a_report_tells_what_became_of_a_job(client: TestClient, job: str) -> None:
    answer = client.get(f"/jobs/{job}/report")
    assert answer.status_code == 200, answer.text
    report = answer.json()
    assert report["verdict"] == "AP 0.300."
    assert report["job"]["id"] == job
    (detector,) = report["detectors"]
    assert (detector["role"], detector["step"], detector["parameters"]) == ("student", 20, 7)
    assert report["seconds"] == 2.5
    assert report["digests"].keys() == {BEST_WEIGHTS}
    assert report["missing"] == ["precision over recall of the detector: its job left no curves"]


@ONE_DATABASE
@pytest.mark.parametrize(("accept", "begins"), [("text/html", "<!DOCTYPE html>"), ("text/markdown", "---\n")])
def test_it_comes_as_a_page_and_as_a_model_card(client: TestClient, job: str, accept: str, begins: str) -> None:
    answer = client.get(f"/jobs/{job}/report", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"{accept}; charset=utf-8"
    assert answer.text.startswith(begins)
    assert "<b>mine</b>" not in answer.text.rpartition("---\n")[2]  # a card's front matter is YAML
    assert "AP50" in answer.text  # also where its job told nothing of single classes
    if accept == "text/html":  # apart from this service's own pages: a script of a report can do nothing here
        assert "sandbox allow-scripts" in answer.headers["content-security-policy"]
        assert "unsafe-eval" not in answer.headers["content-security-policy"]
        assert "ast: true" in answer.text  # without which Vega would need it


def test_the_student_alone_is_another_job_with_the_same_validation_data(
    client: TestClient, post_job: PostJob, spec: dict[str, Any], job: str
) -> None:
    alone = post_job("alone")
    report = client.get(f"/jobs/{job}/report", params={"alone": alone}).json()
    assert [one["role"] for one in report["detectors"]] == ["alone", "student"]
    validation = {"annotations": spec["data"]["train"]["annotations"], "images": spec["data"]["train"]["images"]}
    other = post_job("other", spec=spec | {"data": spec["data"] | {"val": validation}, "seed": 7})
    expected = 200 if validation == spec["data"]["val"] else 422
    assert client.get(f"/jobs/{job}/report", params={"alone": other}).status_code == expected
    for wrong in ("0" * 32, job):
        assert "`alone`: " in problem(client.get(f"/jobs/{job}/report", params={"alone": wrong}), 422)


def test_the_student_alone_is_a_training_of_the_same_student(
    client: TestClient, post_job: PostJob, spec: dict[str, Any], job: str
) -> None:
    """The report calls it the same student alone, and subtracts its AP."""
    distilled = post_job("distilled", kind="distill", spec=spec | {"teacher": {"weights": {"job": job}}})
    exported = post_job("exported", kind="export", spec={"weights": {"job": job}})
    wider = post_job("other", spec=spec | {"student": spec["student"] | {"detector": "fcos"}})
    for other, said in ((distilled, "of kind distill"), (exported, "of kind export"), (wider, "another student")):
        assert said in problem(client.get(f"/jobs/{job}/report", params={"alone": other}), 422)
    assert client.get(f"/jobs/{distilled}/report", params={"alone": job}).status_code == 200
    assert "other validation" in problem(client.get(f"/jobs/{exported}/report", params={"alone": job}), 422)


def test_a_baseline_that_is_deleted_meanwhile_is_left_out(
    client: TestClient, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.services.answers.job_report._partner", lambda *_: "0" * 32)
    assert client.get(f"/jobs/{job}/report").status_code == 200


def test_no_report_of_what_there_is_not(client: TestClient, job: str) -> None:
    problem(client.get(f"/jobs/{'0' * 32}/report"), 404)
    problem(client.get(f"/jobs/{job}/report", headers={"Accept": "image/png"}), 406)


@ONE_DATABASE
def test_a_page_waits_for_its_scripts(client: TestClient, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is told, at once to those who ask just then too, and tried again after a while."""
    vega._made.cache_clear()
    monkeypatch.setattr(vega, "_failed", [])
    monkeypatch.setattr(vega, "_PRINT", "raise SystemExit('no engine')")
    html = {"Accept": "text/html"}
    problem(client.get(f"/jobs/{job}/report", headers=html), 503)
    monkeypatch.setattr(vega, "_PRINT", "print('script')")
    problem(client.get(f"/jobs/{job}/report", headers=html), 503)
    monkeypatch.setattr(vega, "AGAIN_SECONDS", 0.0)
    assert client.get(f"/jobs/{job}/report", headers=html).status_code == 200
    vega._made.cache_clear()
