"""A job that needs the weights of others begins when they are there, and fails of them only if they never will be."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from tests.faults.checker.index import FINAL, Index
from tests.faults.checker.rows import DependencyRow, JobRow
from tests.faults.checker.violations import Rule, Violation

# Where a specification names a job, written down once more.
PLACES = {"teacher": ("teacher", "weights"), "weights": ("weights",), "init": ("student", "init")}
BEGUN = ("queued", "running")


def check_dependencies(index: Index) -> Iterator[Violation]:
    for job in index.jobs.values():
        rows = index.dependencies[job.id]
        yield from _recorded(job, rows)
        if rows:
            yield from _begun(index, job, rows)
            yield from _failed(index, job, rows)


def _recorded(job: JobRow, rows: list[DependencyRow]) -> Iterator[Violation]:
    named = {}
    for role, path in PLACES.items():
        node = job.spec
        for part in path:
            node = (node or {}).get(part) or {}
        if node.get("job"):
            named[role] = node["job"]
    if named != (kept := {row.role: row.depends_on for row in rows}):
        yield Violation(Rule.DEPENDENCY_IGNORED, job.id, f"its spec names {named}, and kept is {kept}")


def _begun(index: Index, job: JobRow, rows: list[DependencyRow]) -> Iterator[Violation]:
    for needed in {row.depends_on for row in rows}:
        if needed not in index.jobs:
            continue  # deleted, after both were at their end
        there = _reached(index, needed, "succeeded")
        for change in index.transitions[job.id]:
            if change.to_status in BEGUN and (there is None or change.at < there):
                evidence = f"it was {change.to_status} {change.at.isoformat()}; job {needed} succeeded: {there}"
                yield Violation(Rule.DEPENDENCY_IGNORED, job.id, evidence)
                break


def _failed(index: Index, job: JobRow, rows: list[DependencyRow]) -> Iterator[Violation]:
    """Of a job that was never begun."""
    path = index.transitions[job.id]
    if not path or (path[-1].from_status, path[-1].to_status) != ("waiting", "failed"):
        return
    became = {row.depends_on: index.jobs[row.depends_on].status for row in rows if row.depends_on in index.jobs}
    ends = {needed: _reached(index, needed, status) for needed, status in became.items() if status in FINAL}
    failed = [needed for needed in became if became[needed] in ("failed", "cancelled")]
    gone = any(row.depends_on not in index.jobs for row in rows)
    before = any((end := ends[needed]) is not None and end <= path[-1].at for needed in failed)
    failure_class = (job.failure or {}).get("failure_class")
    if failure_class == "dependency" and not gone and not before:
        yield Violation(Rule.DEPENDENCY_IGNORED, job.id, f"it failed, and the jobs that it needed are {became}")
    if failure_class not in ("dependency", "user"):
        yield Violation(Rule.DEPENDENCY_IGNORED, job.id, f"it was never begun, and failed as {failure_class}")


def _reached(index: Index, job_id: str, status: str) -> datetime | None:
    return next((row.at for row in index.transitions[job_id] if row.to_status == status), None)
