"""Evaluations in pages, and what of them a report holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from api.services.history import evaluations
from tests.support.evaluations import evaluation
from tests.support.worker_calls import Worker

PostJob = Callable[..., str]
ALL = [("student", 0), ("teacher", 0), ("student", 10), ("student", 20), ("student", 30), ("student", 40)]


@pytest.fixture
def job(post_job: PostJob, worker: Worker) -> str:
    """A job that has evaluated its teacher once, and its student five times; the third is the best."""
    found = post_job()
    worker.claim(found)
    for model, step in ALL:
        report = evaluation(model, step, 0.5, best=(model, step) == ("student", 20))
        assert worker.post("evaluations", report).status_code == 204
    return found


@pytest.mark.parametrize(
    ("limit", "characters", "pages"),
    [
        (1000, 8_000_000, [ALL]),
        (3, 8_000_000, [ALL[:3], ALL[3:]]),
        (1, 8_000_000, [ALL[:2], *([one] for one in ALL[2:])]),  # a step is never torn
        (1000, 1, [ALL[:2], *([one] for one in ALL[2:])]),
        (1000, 1000, [ALL[:2], ALL[2:4], ALL[4:]]),
    ],
)
def test_a_page_has_whole_steps_and_leads_to_the_next(
    client: TestClient,
    job: str,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    characters: int,
    pages: list[list[tuple[str, int]]],
) -> None:
    monkeypatch.setattr(evaluations, "PAGE_CHARACTERS", characters)
    path = f"/jobs/{job}/evaluations?limit={limit}"
    for number, expected in enumerate(pages, 1):
        answer = client.get(path)
        page = answer.json()
        assert [(one["model"], one["step"]) for one in page["items"]] == expected
        assert all(one["per_class"] for one in page["items"])
        assert page["has_more"] is (number < len(pages)) is (page["next_step"] is not None)
        path = answer.links["next"]["url"] if page["has_more"] else ""
    assert path == ""


@pytest.mark.parametrize(
    ("characters", "whole"),
    [(8_000_000, ALL), (1, [("student", 0), ("teacher", 0), ("student", 20), ("student", 40)])],
)
def test_the_report_of_a_large_job_has_the_classes_of_the_first_the_best_and_the_last(
    client: TestClient, job: str, monkeypatch: pytest.MonkeyPatch, characters: int, whole: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(evaluations, "PAGE_CHARACTERS", characters)
    report = client.get(f"/jobs/{job}/report").json()
    assert [(one["model"], one["step"]) for one in report["evaluations"]] == ALL
    assert [(one["model"], one["step"]) for one in report["evaluations"] if one["per_class"]] == whole
    assert [row["name"] for row in report["classes"]] == ["ring"]
