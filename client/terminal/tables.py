"""Answers of the service as text: tables for many things, short lines for one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.table import Table

from client.terminal.visible import visible
from client.terminal.watch import describe
from wire.artifacts import Artifact
from wire.jobs import DataWarning, Job, JobSummary, Preset
from wire.reports import Evaluation, MetricRow

LOG_LINES = 20  # of the log's end, below a failure
TOLD_BY_THE_MESSAGE = ("user", "data", "dependency")  # classes of failures
COCO_LIMIT = 100  # detections an image that COCO's own AP counts


def jobs_table(jobs: Iterable[JobSummary]) -> Table:
    table = plain_table("id", "kind", "name", "status", "step", "AP", "created")
    for job in jobs:
        progress = job.progress
        step = f"{progress.step}/{progress.total_steps}" if progress else ""
        add_row(table, job.id, job.kind, job.name, job.status, step, number(job.best_ap), when(job.created_at))
    return table


def job_lines(job: Job) -> list[str]:
    """One job: its state, its history, its tries, and where it broke."""
    lines = [f"{job.id}  {job.kind}  {job.name}", f"  {describe(job)}"]
    if job.labels:
        lines.append("  labels: " + ", ".join(f"{key}={value}" for key, value in job.labels.items()))
    if job.waiting is not None and job.status != "waiting":  # of which the state says it
        lines.append(f"  waiting: {job.waiting}")
    lines += [f"  {warning_line(warning)}" for warning in job.warnings]
    if job.teacher_ap is not None:
        lines.append(f"  teacher: AP {number(job.teacher_ap)}")
    lines += [f"  {when(change.at)}  {change.to_status:<9}  {change.reason}" for change in job.transitions]
    for attempt in job.attempts:
        resumed = f", from step {attempt.resumed_from_step}" if attempt.resumed_from_step else ""
        lines.append(f"  attempt {attempt.number}: {attempt.status} on {attempt.worker} {attempt.device}{resumed}")
    if job.failure is not None:
        lines += failure_lines(job)
    return [visible(line) for line in lines]


def warning_line(warning: DataWarning) -> str:
    """What was found in a job's data, and what to do if it was not meant so."""
    return visible(f"warning: {warning.detail}. {warning.remedy}".rstrip())


def failure_lines(job: Job) -> list[str]:
    """What broke, what to do, and the end of the log where it may tell more.

    It does not where the job or its data are at fault: the message says all of it.
    """
    if job.failure is None:
        return []
    failure = job.failure
    where = f" (at {failure.where})" if failure.where else ""
    lines = [f"failed ({failure.failure_class}): {failure.message}{where}"]
    if failure.remedy:
        lines.append(f"  what to do: {failure.remedy}")
    if failure.failure_class not in TOLD_BY_THE_MESSAGE:
        lines += [f"    {line}" for line in failure.log_tail[-LOG_LINES:]]
    return [visible(line) for line in lines]


def evaluations_table(evaluations: Iterable[Evaluation]) -> Table:
    table = plain_table("model", "step", "epoch", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "images", "best")
    notes: dict[str, str] = {}
    for row in evaluations:
        m = row.metrics
        figures = [number(value) for value in (m.AP, m.AP50, m.AP75, m.APs, m.APm, m.APl, m.AR100)]
        best = "*" if row.best else ""
        add_row(table, row.model, str(row.step), f"{row.epoch:g}", *figures, str(row.images), best)
        if row.max_detections != COCO_LIMIT:
            notes[row.model] = f"{row.model}: {row.max_detections}"
    if notes:
        table.caption = f"AP counts other than {COCO_LIMIT} detections an image: {', '.join(notes.values())}"
    return table


def metrics_table(rows: Iterable[MetricRow]) -> Table:
    table = plain_table("step", "key", "value", "attempt")
    for row in rows:
        value = f"{row.value:.6g}" if isinstance(row.value, float) else row.value
        add_row(table, str(row.step), row.key, value, str(row.attempt))
    return table


def artifacts_table(artifacts: Iterable[Artifact]) -> Table:
    table = plain_table("name", "kind", "bytes", "step", "sha256")
    for item in artifacts:
        step = "" if item.step is None else str(item.step)
        add_row(table, item.name, item.kind, str(item.size), step, item.sha256)
    return table


def predictions_table(rows: Iterable[tuple[str, str, str, str]]) -> Table:
    table = plain_table("image", "objects", "surest", "picture")
    for row in rows:
        add_row(table, *row)
    return table


def presets_table(presets: Iterable[Preset]) -> Table:
    table = plain_table("name", "kind", "title")
    for preset in presets:
        add_row(table, preset.name, preset.kind, preset.title)
    return table


def number(value: float | None) -> str:
    """A figure of COCO; -1 means that there was nothing to measure."""
    return "" if value is None else "-" if value < 0 else f"{value:.3f}"


def when(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def add_row(table: Table, *cells: str) -> None:
    table.add_row(*map(visible, cells))


def plain_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # Never cut: ids, names and digests are there to be copied.
        table.add_column(column, no_wrap=True, overflow="ignore")
    return table
