"""What tables say beside their rows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from client.tables import evaluations_table
from tests.support.evaluations import EVALUATION
from wire.reports import Evaluation


@pytest.mark.parametrize(("limit", "said"), [(100, ""), (300, "AP counts other than 100 detections an image")])
def test_evaluations_say_which_limit_they_counted_where_it_is_not_that_of_coco(limit: int, said: str) -> None:
    at = {"attempt": 1, "at": "2025-01-01T00:00:00Z"}
    teacher = Evaluation.model_validate(EVALUATION | at | {"model": "teacher", "max_detections": limit})
    out = io.StringIO()
    Console(file=out, width=200).print(evaluations_table([teacher, Evaluation.model_validate(EVALUATION | at)]))
    assert ("teacher: 300" in out.getvalue()) == bool(said)
    assert said in out.getvalue()
