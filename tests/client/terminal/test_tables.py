"""What tables say beside their rows."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from client.commands.shared import show_tables
from client.terminal.comparisons import tables_of
from client.terminal.tables import add_row, evaluations_table, failure_lines, job_lines, plain_table
from tests.support.evaluations import EVALUATION
from wire.compare import Comparison
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


def test_a_narrow_terminal_cuts_no_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    table = plain_table("id", "kind", "name")
    add_row(table, "0" * 32, "distill", "a name of its own")
    show_tables([table])
    assert f"{'0' * 32}  distill  a name of its own" in capsys.readouterr().out


def compared(job: str, name: str, ap: float, differences: Any = None) -> dict[str, Any]:
    metrics = dict.fromkeys(EVALUATION["metrics"], -1.0) | {"AP": ap}
    figures = {"step": 3, "matches_sha256": "0" * 64, "metrics": metrics, "per_class": {"ring": ap, "cup": ap}}
    return {"ref": job, "job": job, "name": name, "model": "student", "differences": differences} | figures


def test_a_comparison_tells_what_is_shown_and_obeys_no_name() -> None:
    numbers: dict[str, Any] = dict.fromkeys(["AP50", "AP75", "APs", "APm", "APl"])
    numbers["AP"] = {"value": 0.1, "low": 0.05, "high": 0.15, "resamples": 1000}
    classes = {
        "ring": {"value": 0.1, "low": -0.1, "high": 0.2, "resamples": 900},
        "c\x1b[2Jup": {"value": -0.2, "low": -0.3, "high": -0.1, "resamples": 1000},
    }
    jobs = [compared("a", "first", 0.2), compared("b", "[red]x\x1b[2J", 0.3, {"numbers": numbers, "classes": classes})]
    for job in jobs:
        job["per_class"] = dict.fromkeys(classes, job["metrics"]["AP"])
    about = {"baseline": "a", "images": 8, "resamples": 1000, "seed": 0, "confidence": 95.0}
    out = io.StringIO()
    for table in tables_of(Comparison.model_validate(about | {"jobs": jobs})):
        Console(file=out, width=200, markup=False).print(table)
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert lines[0] == "[red]x\\x1b[2J (b) against first (a)"
    assert "AP 0.200 0.300 +0.100 +0.050 to +0.150 better" in lines
    assert "APs - - - -" in lines
    loser, other = (
        lines.index("AP of c\\x1b[2Jup 0.200 0.300 -0.200 -0.300 to -0.100 worse"),
        lines.index("AP of ring 0.200 0.300 +0.100 -0.100 to +0.200"),
    )
    assert loser < other
    assert "\x1b[2J" not in out.getvalue()


def test_a_job_is_shown_with_what_was_found_in_its_data() -> None:
    found = {"pointer": "/spec/data/train/annotations", "kind": "clipped", "count": 2, "of": "annotations"}
    told = DataWarning.model_validate(found | {"detail": "a\x1b.json: 2 boxes are clipped", "remedy": "Look at them."})
    at = "2025-01-01T00:00:00Z"
    values = {"id": "0", "kind": "train", "name": "n", "labels": {}, "status": "queued", "created_at": at}
    rest = {"updated_at": at, "spec_version": 1, "spec": {}, "transitions": [], "attempts": [], "warnings": [told]}
    assert job_lines(Job.model_validate(values | rest))[-1] == (
        "  warning: a\\x1b.json: 2 boxes are clipped. Look at them."
    )
    waiting = job_lines(Job.model_validate(values | rest | {"status": "waiting", "waiting": "it waits for 01a2"}))
    assert "\n".join(waiting).count("it waits for 01a2") == 1
