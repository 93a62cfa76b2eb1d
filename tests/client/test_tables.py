"""What tables say beside their rows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from client.tables import evaluations_table, failure_lines, job_lines
from tests.support.evaluations import EVALUATION
from wire.jobs import DataWarning, Failure, Job
from wire.reports import Evaluation


@pytest.mark.parametrize(("limit", "said"), [(100, ""), (300, "AP counts other than 100 detections an image")])
def test_evaluations_say_which_limit_they_counted_where_it_is_not_that_of_coco(limit: int, said: str) -> None:
    at = {"attempt": 1, "at": "2025-01-01T00:00:00Z"}
    teacher = Evaluation.model_validate(EVALUATION | at | {"model": "teacher", "max_detections": limit})
    out = io.StringIO()
    Console(file=out, width=200).print(evaluations_table([teacher, Evaluation.model_validate(EVALUATION | at)]))
    assert ("teacher: 300" in out.getvalue()) == bool(said)
    assert said in out.getvalue()


@pytest.mark.parametrize(
    ("failure_class", "log"), [("user", []), ("data", []), ("infrastructure", ["    Traceback …"])]
)
def test_a_failure_is_told_once_with_its_remedy_on_a_line_of_its_own(failure_class: str, log: list[str]) -> None:
    told = {"message": "no such class", "where": "/spec/data", "remedy": "Name it.", "log_tail": ["Traceback …"]}
    job = Job.model_construct(failure=Failure.model_validate(told | {"failure_class": failure_class}))
    assert failure_lines(job) == [
        f"failed ({failure_class}): no such class (at /spec/data)",
        "  what to do: Name it.",
        *log,
    ]


def test_a_job_is_shown_with_what_was_found_in_its_data() -> None:
    found = {"pointer": "/spec/data/train/annotations", "kind": "clipped", "count": 2, "of": "annotations"}
    told = DataWarning.model_validate(found | {"detail": "a\x1b.json: 2 boxes are clipped", "remedy": "Look at them."})
    at = "2025-01-01T00:00:00Z"
    values = {"id": "0", "kind": "train", "name": "n", "labels": {}, "status": "queued", "created_at": at}
    rest = {"updated_at": at, "spec_version": 1, "spec": {}, "transitions": [], "attempts": [], "warnings": [told]}
    assert job_lines(Job.model_validate(values | rest))[-1] == (
        "  warning: a\\x1b.json: 2 boxes are clipped. Look at them."
    )
