"""What was stored of a training's reports, held against the training's own audit_log.

Reports travel in order, so of each attempt's audit_log the API holds a beginning: how long it must be follows from what
is known to have been taken. Everything, where the training ended and says that all was delivered, or the attempt has
succeeded. Everything from before a checkpoint, where that checkpoint was published: it is sent only behind the
reports that led to it, since whoever resumes from it repeats nothing from before. What an attempt reported past the
step that a later one resumed from is replaced by the later one's, and may be stored or not; but never anything that
was not reported, nor twice, nor with another bit.

The series of a job, over all attempts, then has every step that its `log_every` asks for, from the first on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

from tests.faults.checker.index import TRAININGS, Index
from tests.faults.checker.journal import SHOWN
from tests.faults.checker.rows import AttemptRow, JobRow, PointRow
from tests.faults.checker.summaries import summaries
from tests.faults.checker.violations import Rule, Violation
from worker.training.audit_log import Ended, Evaluated, Points, Record, Wrote, exact

NONE = -1  # the last step of an attempt all of whose steps are replaced
NON_FINITE = ("", "nan", "inf", "-inf")  # by kind of a stored point


class Reported(NamedTuple):
    """What a audit_log tells, in its order; and how much of it came before each checkpoint, or before the end."""

    points: list[tuple[int, str, str]]  # step, key, value
    evaluations: list[tuple[str, int, dict[str, str]]]
    marks: dict[int, tuple[int, int]]  # step of a checkpoint -> points and evaluations before it
    delivered: bool


def reported(records: tuple[Record, ...]) -> Reported:
    told = Reported([], [], {}, any(isinstance(record, Ended) and record.delivered for record in records))
    seen: set[tuple[int, str]] = set()
    for record in records:
        if isinstance(record, Points):
            for key, value in record.values.items():
                if (record.step, key) not in seen:  # of two, the API keeps the first
                    seen.add((record.step, key))
                    told.points.append((record.step, key, value))
        elif isinstance(record, Evaluated):
            told.evaluations.append((record.model, record.step, record.metrics))
        elif isinstance(record, Wrote) and record.name.startswith("checkpoint-") and record.step is not None:
            told.marks.setdefault(record.step, (len(told.points), len(told.evaluations)))
    return told


def check_series(index: Index) -> Iterator[Violation]:
    for job in index.jobs.values():
        last = {stretch.attempt.id: stretch.last for stretch in index.stretches(job.id)}
        for attempt in index.attempts[job.id]:
            records = index.audit_logs[attempt.id]
            if not records:
                if index.points[attempt.id] or index.evaluations[attempt.id]:
                    stored = f"{len(index.points[attempt.id])} points, {len(index.evaluations[attempt.id])} evaluations"
                    yield Violation(Rule.AUDIT_LOG_MISSING, job.id, f"{stored} of {index.name(attempt)}")
                continue
            told = reported(records)
            points, evaluations = _taken(index, job, attempt, told, last.get(attempt.id, NONE))
            found = list(_points(index, attempt, told, points))
            yield from found or _summaries(index, attempt)  # of what is wrong itself no summary can be right
            yield from _evaluations(index, attempt, told, evaluations)
        if job.kind in TRAININGS:
            yield from _holes(index, job)


def _taken(index: Index, job: JobRow, attempt: AttemptRow, told: Reported, last: int) -> tuple[int, int]:
    """How many of the reported points and evaluations the API must hold at least."""
    everything = (len(told.points), len(told.evaluations))
    if attempt.status == "succeeded" or told.delivered:
        return everything
    published = [
        row.step
        for row in index.artifacts[job.id]
        if row.kind == "checkpoint" and row.attempt_id == attempt.id and row.step is not None
    ]
    resumed = [later.resumed_from_step for later in index.attempts[job.id] if later.number > attempt.number]
    steps = [*published, *(step for step in resumed if step <= last)]
    marks = [told.marks[step] for step in steps if step in told.marks]
    return max((mark[0] for mark in marks), default=0), max((mark[1] for mark in marks), default=0)


def _points(index: Index, attempt: AttemptRow, told: Reported, taken: int) -> Iterator[Violation]:
    who, rows = index.name(attempt), index.points[attempt.id]
    counted = Counter((row.step, row.key) for row in rows)
    if doubled := [place for place, count in counted.items() if count > 1]:
        yield Violation(Rule.POINT_DOUBLED, attempt.job_id, f"{who}: {_listed(doubled)}")
    values = {(step, key): value for step, key, value in told.points}
    invented = [place for place in counted if place not in values]
    if invented:
        yield Violation(Rule.POINT_INVENTED, attempt.job_id, f"{who}: {_listed(invented)}")
    for row in rows:
        value = values.get((row.step, row.key))
        if value is not None and value != stored_value(row):
            evidence = f"{who}: {row.key} of step {row.step} is {stored_value(row)}, reported was {value}"
            yield Violation(Rule.POINT_CHANGED, attempt.job_id, evidence)
    order = [(step, key) for step, key, _ in told.points]
    stored = max((place for place, point in enumerate(order, 1) if point in counted), default=0)
    if lost := [point for point in order[: max(taken, stored)] if point not in counted]:
        why = f"{taken} of {len(order)} must have been taken, and the last one stored is number {stored}"
        yield Violation(Rule.POINT_LOST, attempt.job_id, f"{who}: {_listed(lost)}; {why}")


def _summaries(index: Index, attempt: AttemptRow) -> Iterator[Violation]:
    kept, wanted = Counter(index.summaries[attempt.id]), Counter(summaries(index.points[attempt.id]))
    if differing := [*(kept - wanted), *(wanted - kept)]:
        names = sorted({f"{row.key} in bucket {row.bucket} of {row.width} steps" for row in differing})
        yield Violation(Rule.SUMMARY_WRONG, attempt.job_id, f"{index.name(attempt)}: {', '.join(names[:SHOWN])}")


def stored_value(row: PointRow) -> str:
    """As `worker.training.audit_log.exact` writes it."""
    if row.kind == 0 and row.value is not None:
        return float(row.value).hex()
    return NON_FINITE[row.kind]


def _listed(places: list[Any]) -> str:
    return f"{len(places)} points, among them {places[:SHOWN]}"


def _evaluations(index: Index, attempt: AttemptRow, told: Reported, taken: int) -> Iterator[Violation]:
    who = index.name(attempt)
    stored = {(row.model, row.step): exact(row.report["metrics"]) for row in index.evaluations[attempt.id]}
    values: dict[Hashable, dict[str, str]] = {}
    for model, step, metrics in told.evaluations:
        values.setdefault((model, step), metrics)  # of two, the API keeps the first
    for place, metrics in stored.items():
        if place not in values:
            yield Violation(Rule.EVALUATION_WRONG, attempt.job_id, f"{who}: {place} is stored and was never reported")
        elif metrics != values[place]:
            yield Violation(Rule.EVALUATION_WRONG, attempt.job_id, f"{who}: {place} is stored with other numbers")
    order = [(model, step) for model, step, _ in told.evaluations]
    last = max((number for number, place in enumerate(order, 1) if place in stored), default=0)
    if lost := [place for place in order[: max(taken, last)] if place not in stored]:
        yield Violation(Rule.EVALUATION_WRONG, attempt.job_id, f"{who}: {lost[:SHOWN]} was reported and is lost")


def _holes(index: Index, job: JobRow) -> Iterator[Violation]:
    floor = job.start["step"] if job.start else 0
    every = job.spec.get("log_every", 1)
    stretches = index.stretches(job.id)
    if not stretches:
        return
    found = {
        row.step
        for stretch in stretches
        for row in index.points[stretch.attempt.id]
        if stretch.first <= row.step <= stretch.last
    }
    last = max(found, default=floor)
    if job.status == "succeeded":
        last = max(last, index.result(job.id).get("steps", 0))
    wanted = set(range(floor - floor % every + every, last + 1, every))
    if missing := sorted(wanted - found):
        evidence = f"{len(missing)} of the steps {floor + 1} to {last} are missing, among them {missing[:SHOWN]}"
        yield Violation(Rule.SERIES_HOLE, job.id, evidence)
