"""A history as the rules ask for it: rows by job and attempt, and what several rules reckon with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from tests.faults.checker.rows import (
    ArtifactRow,
    AttemptRow,
    BatchRow,
    DependencyRow,
    EvaluationRow,
    EventRow,
    FileRead,
    History,
    JobRow,
    Json,
    PointRow,
    SummaryRow,
    TransitionRow,
)
from worker.training.audit_log import Began, Record

Row = TypeVar("Row")
FINAL = frozenset({"succeeded", "failed", "cancelled"})
TRAININGS = frozenset({"train", "distill"})
END = 2**53  # no step lies behind it


class StepRange(NamedTuple):
    """The steps of an attempt that count in its job's series: `first` <= step <= `last`."""

    attempt: AttemptRow
    first: int
    last: int


class Index:
    """Rows sorted and grouped once. An attempt or job that no row names has empty lists."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.seen = history.seen
        self.jobs: dict[str, JobRow] = {job.id: job for job in history.jobs}
        self.attempt_rows = {attempt.id: attempt for attempt in history.attempts}
        self.dependencies: dict[str, list[DependencyRow]] = _grouped(history.dependencies, "job_id", "role")
        self.transitions: dict[str, list[TransitionRow]] = _grouped(history.transitions, "job_id", "seq")
        self.attempts: dict[str, list[AttemptRow]] = _grouped(history.attempts, "job_id", "number")
        self.events: dict[str, list[EventRow]] = _grouped(history.events, "job_id", "seq")
        self.points: dict[str, list[PointRow]] = _grouped(history.points, "attempt_id", "step", "key")
        self.summaries: dict[str, list[SummaryRow]] = _grouped(
            history.summaries, "attempt_id", "key", "width", "bucket"
        )
        self.batches: dict[str, list[BatchRow]] = _grouped(history.batches, "attempt_id", "sequence")
        self.evaluations: dict[str, list[EvaluationRow]] = _grouped(history.evaluations, "attempt_id", "step", "model")
        self.artifacts: dict[str, list[ArtifactRow]] = _grouped(history.artifacts, "job_id", "name")
        self.audit_logs: defaultdict[str, tuple[Record, ...]] = defaultdict(tuple)
        for audit_log in history.audit_logs:  # two of one attempt: two workers have trained it
            self.audit_logs[audit_log.attempt_id] += audit_log.records
        self.files: dict[str, FileRead] = {file.key: file for file in history.files}
        self._began: defaultdict[str, list[Began]] = defaultdict(list)
        for records in self.audit_logs.values():
            for record in records:
                if isinstance(record, Began):
                    self._began[record.job].append(record)

    def began_of_job(self, job_id: str) -> list[Began]:
        """Every training of the job that has left a audit_log."""
        return self._began[job_id]

    def stretches(self, job_id: str) -> list[StepRange]:
        """In the order of steps. An attempt that resumed from step r replaces what earlier ones said of later steps."""
        found: list[StepRange] = []
        last = END
        for attempt in reversed(self.attempts[job_id]):
            first = attempt.resumed_from_step + 1 if attempt.resumed_from_step else 0
            if first <= last:
                found.append(StepRange(attempt, first, last))
            last = min(last, first - 1)
        return found[::-1]

    def result(self, job_id: str) -> Json:
        """The manifest that the last attempt handed in; empty if it has none."""
        attempts = self.attempts[job_id]
        return (attempts[-1].result or {}) if attempts else {}

    def name(self, attempt: AttemptRow) -> str:
        return f"attempt {attempt.number} ({attempt.id} of {attempt.worker})"


def _grouped(table: Iterable[Row], by: str, *order: str) -> Any:
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(table, key=attrgetter(*order)):
        groups[getattr(row, by)].append(row)
    return groups
