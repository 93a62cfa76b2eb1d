"""A faultless history of some jobs, and the means to spoil it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.faults.checker.plan import Plan, Try
from tests.faults.checker.rows import (
    ArtifactRow,
    AttemptRow,
    AuditLog,
    EventRow,
    History,
    JobRow,
    PointRow,
    TransitionRow,
)
from tests.faults.checker.synthetic import Maker


def faultless() -> History:
    maker = Maker()
    # Attempt 1 takes 8 steps and tells it all; attempt 2 resumes from the checkpoint of step 5.
    resumed = maker.job(Plan("resumed", (Try(8, "lost", 99), Try(0, "succeeded"))))
    maker.job(Plan("given back", (Try(3, "released"), Try(4, "failed", 3), Try(9, "paused"), Try(2, "cancelled"))))
    failed = maker.job(Plan("failed", (Try(7, "user"),)))
    maker.job(Plan("short", (Try(3, "user"),)))
    maker.job(Plan("unwanted", ()))
    maker.job(Plan("retry", (Try(3, "lost", 2), Try(0, "succeeded")), retried_from=failed, start_step=5))
    maker.job(Plan("waited", (Try(0, "succeeded"),), needs=resumed))
    maker.job(Plan("in vain", (), needs=failed))
    return maker.history


class Case:
    """Jobs go by name, attempts by job and number."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.ids = {job.name: job.id for job in history.jobs}

    def job(self, name: str) -> JobRow:
        return next(job for job in self.history.jobs if job.id == self.ids[name])

    def attempt(self, job: str, number: int) -> AttemptRow:
        return next(row for row in self.history.attempts if (row.job_id, row.number) == (self.ids[job], number))

    def artifact(self, job: str, name: str) -> ArtifactRow:
        return next(row for row in self.history.artifacts if row.job_id == self.ids[job] and row.name == name)

    def point(self, job: str, number: int, step: int, key: str) -> PointRow:
        attempt = self.attempt(job, number).id
        wanted = (attempt, step, key)
        return next(row for row in self.history.points if (row.attempt_id, row.step, row.key) == wanted)

    def path(self, job: str) -> list[TransitionRow]:
        return [row for row in self.history.transitions if row.job_id == self.ids[job]]

    def events(self, job: str) -> list[EventRow]:
        return [event for event in self.history.events if event.job_id == self.ids[job]]

    def audit_log(self, job: str, number: int) -> AuditLog:
        attempt = self.attempt(job, number).id
        return next(audit_log for audit_log in self.history.audit_logs if audit_log.attempt_id == attempt)

    def table(self, row: Any) -> list[Any]:
        """The table that the row stands in."""
        tables = [*vars(self.history).values(), *vars(self.history.seen).values()]
        return next(table for table in tables if isinstance(table, list) and row in table)

    def drop(self, row: Any) -> None:
        self.table(row).remove(row)

    def change(self, row: Any, **changes: Any) -> None:
        table = self.table(row)
        table[table.index(row)] = replace(row, **changes)

    def note(self, job: str, number: int, records: list[Any]) -> None:
        """Make `records` the audit_log of an attempt."""
        self.change(self.audit_log(job, number), records=tuple(records))

    def tell(self, job: str, events: list[EventRow]) -> None:
        """Make `events`, in their order, all that the job has."""
        others = [event for event in self.history.events if event.job_id != self.ids[job]]
        self.history.events[:] = others + [replace(event, seq=number) for number, event in enumerate(events, 1)]
        self.change(self.job(job), last_event=len(events))

    def erase(self, job: str) -> None:
        """Remove a job with all its rows and files, as no service would."""
        id_, history = self.ids[job], self.history
        attempts = {row.id for row in history.attempts if row.job_id == id_}
        history.jobs[:] = [row for row in history.jobs if row.id != id_]
        for table in (history.transitions, history.attempts, history.events, history.logs, history.artifacts):
            table[:] = [row for row in table if row.job_id != id_]  # type: ignore[attr-defined]
        for table in (history.points, history.summaries, history.batches, history.evaluations):
            table[:] = [row for row in table if row.attempt_id not in attempts]  # type: ignore[attr-defined]
        history.files[:] = [file for file in history.files if not file.key.startswith(id_)]
