"""Comparisons as tables: one for each job that is compared with the baseline."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from client.terminal.tables import add_row, number, plain_table
from client.terminal.visible import visible
from wire.compare import ComparedJob, Comparison, JobDifference
from wire.reports import CocoMetrics


def tables_of(found: Comparison) -> Iterator[Table]:
    """The numbers first, then AP of the classes, those that lose most before the others."""
    baseline = found.jobs[0]
    for job in found.jobs[1:]:
        yield _table(baseline, job, f"{found.images} images, {found.resamples} resamples, seed {found.seed}")


def _table(baseline: ComparedJob, job: ComparedJob, caption: str) -> Table:
    table = plain_table("", "baseline", "this", "difference", "95 % interval", "shown")
    # As `Text`: a title is no markup, whatever a job is called.
    table.title = Text(visible(f"{_called(job)} against {_called(baseline)}"))
    table.title_justify = table.caption_justify = "left"
    table.caption = Text(caption)
    assert job.differences is not None
    for name, difference in job.differences.numbers.items():
        _add(table, name, _value(baseline.metrics, name), _value(job.metrics, name), difference)
    by_class = job.differences.classes.items()
    for class_name, difference in sorted(by_class, key=lambda entry: entry[1].value if entry[1] else float("inf")):
        _add(table, f"AP of {class_name}", baseline.per_class[class_name], job.per_class[class_name], difference)
    return table


def _called(job: ComparedJob) -> str:
    whose = "" if job.model == "student" else "the teacher of "
    return f"{whose}{job.name} ({job.job})"


def _value(metrics: CocoMetrics, name: str) -> float:
    value: float = getattr(metrics, name)
    return value


def _add(table: Table, name: str, before: float, after: float, difference: JobDifference | None) -> None:
    if difference is None:
        add_row(table, name, number(before), number(after), "-", "-", "")
        return
    shown = "better" if difference.low > 0 else "worse" if difference.high < 0 else ""
    bounds = f"{difference.low:+.3f} to {difference.high:+.3f}"
    add_row(table, name, number(before), number(after), f"{difference.value:+.3f}", bounds, shown)
