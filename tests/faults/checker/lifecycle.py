"""The life of a job: a path through the state machine, one live attempt at a time, and nothing taken from another."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

from tests.faults.checker.index import FINAL, Index
from tests.faults.checker.rows import AttemptRow, JobRow, TransitionRow
from tests.faults.checker.violations import Rule, Violation
from worker.training.audit_log import Began

# Written down once more: what the service takes for its state machine is what is to be checked.
LEGAL = {
    None: {"waiting", "queued"},
    "waiting": {"queued", "paused", "failed", "cancelled"},
    "queued": {"running", "paused", "cancelled"},
    "running": {"queued", "paused", "succeeded", "failed", "cancelled"},
    "paused": {"waiting", "queued", "cancelled"},
}
RETRIED = frozenset({"infrastructure", "lost"})  # classes of failures after which a job is tried again


def check_lifecycle(index: Index) -> Iterator[Violation]:
    for job in index.jobs.values():
        path, attempts = index.transitions[job.id], index.attempts[job.id]
        yield from _path(job, path)
        yield from _fencing(index, job, path, attempts)
        yield from _intervals(index, attempts)
        yield from _beside(index, path, attempts)
        yield from _late_writes(index, job, path)
        yield from _verdicts(index, job, path, attempts)
        yield from _trainings(index, job, attempts)


def _path(job: JobRow, path: list[TransitionRow]) -> Iterator[Violation]:
    if [row.seq for row in path] != list(range(1, len(path) + 1)):
        yield Violation(Rule.TRANSITION_ILLEGAL, job.id, f"they are numbered {[row.seq for row in path]}")
    before = None
    for row in path:
        step = f"transition {row.seq} at {row.at.isoformat()} goes from {row.from_status} to {row.to_status}"
        if before in FINAL:
            yield Violation(Rule.FINAL_CHANGED, job.id, f"{step}, but the job had {before}")
        elif row.from_status != before:
            yield Violation(Rule.TRANSITION_ILLEGAL, job.id, f"{step}, but the job was {before}")
        elif row.to_status not in LEGAL[before]:
            yield Violation(Rule.TRANSITION_ILLEGAL, job.id, f"{step}, which no job may")
        before = row.to_status
    if before != job.status:
        rule = Rule.FINAL_CHANGED if before in FINAL else Rule.TRANSITION_ILLEGAL
        yield Violation(rule, job.id, f"the job is {job.status}, its last transition led to {before}")
    for one, two in pairwise(path):
        if two.at < one.at:
            evidence = f"transition {two.seq} is of {two.at.isoformat()}, {one.seq} of {one.at.isoformat()}"
            yield Violation(Rule.TIME_REVERSED, job.id, evidence)


def _fencing(index: Index, job: JobRow, path: list[TransitionRow], attempts: list[AttemptRow]) -> Iterator[Violation]:
    numbers = [attempt.number for attempt in attempts]
    claims = sum(row.to_status == "running" for row in path)
    if numbers != list(range(1, job.attempt + 1)) or claims != job.attempt:
        evidence = f"the attempts are {numbers}, the job counts {job.attempt} and was claimed {claims} times"
        yield Violation(Rule.FENCING_BROKEN, job.id, evidence)
    known = {attempt.id for attempt in attempts}
    for began in index.began_of_job(job.id):
        if began.attempt not in known:
            evidence = f"{began.worker} trained attempt {began.number} ({began.attempt}), of which there is no row"
            yield Violation(Rule.FENCING_BROKEN, job.id, evidence)


def _intervals(index: Index, attempts: list[AttemptRow]) -> Iterator[Violation]:
    for attempt in attempts:
        if attempt.status == "lost" and attempt.ended_at is not None and attempt.ended_at < attempt.lease_expires_at:
            evidence = (
                f"{index.name(attempt)} was ended {attempt.ended_at.isoformat()}, "
                f"its lease ran until {attempt.lease_expires_at.isoformat()}"
            )
            yield Violation(Rule.LEASE_IGNORED, attempt.job_id, evidence)
    for one, two in pairwise(attempts):
        if two.started_at < (end := _end(one)):
            evidence = (
                f"{index.name(two)} began {two.started_at.isoformat()}, {index.name(one)} lived until {end.isoformat()}"
            )
            yield Violation(Rule.ATTEMPTS_OVERLAP, one.job_id, evidence)


def _end(attempt: AttemptRow) -> datetime:
    """Who has not ended lives until its lease does: then the API still takes what it sends."""
    return attempt.ended_at or attempt.lease_expires_at


def _falling(*times: datetime | None) -> bool:
    known = [time for time in times if time is not None]
    return known != sorted(known)


def _beside(index: Index, path: list[TransitionRow], attempts: list[AttemptRow]) -> Iterator[Violation]:
    """An attempt begins after the transition that queued its job, and ends before the one that follows its claim."""
    places = [place for place, row in enumerate(path) if row.to_status == "running" and place]
    for before, attempt, place in zip([None, *attempts], attempts, places, strict=False):
        if before is not None and attempt.started_at < _end(before):
            continue  # they overlap: that is told already
        queued, claimed = path[place - 1].at, path[place].at
        after = path[place + 1].at if place + 1 < len(path) else attempt.ended_at
        ended = attempt.ended_at or after
        if any(_falling(queued, start, ended, after) for start in (claimed, attempt.started_at)):
            evidence = (
                f"{index.name(attempt)} lived {attempt.started_at.isoformat()} to {attempt.ended_at}; "
                f"the job was queued {queued.isoformat()}, running {claimed.isoformat()}, moved on {after}"
            )
            yield Violation(Rule.TIME_REVERSED, attempt.job_id, evidence)


def _late_writes(index: Index, job: JobRow, path: list[TransitionRow]) -> Iterator[Violation]:
    """By the order of the job's events, which its row's lock makes, and by the times of rows that have one."""
    status = {row.seq: row.to_status for row in path}
    claims, live = 0, None
    for event in index.events[job.id]:
        if event.kind == "transition":
            running = status.get(event.ref.get("seq", 0)) == "running"
            claims += running
            live = claims if running else None
        elif event.ref.get("attempt") != live:
            state = f"attempt {live} was live" if live else f"none was live after attempt {claims}"
            evidence = f"event {event.seq} ({event.kind}) is of attempt {event.ref.get('attempt')}, {state}"
            yield Violation(Rule.LATE_WRITE, job.id, evidence)
    for attempt in index.attempts[job.id]:
        dated = [(f"evaluation of step {row.step}", row.at) for row in index.evaluations[attempt.id]]
        dated += [(row.name, row.created_at) for row in index.artifacts[job.id] if row.attempt_id == attempt.id]
        for what, at in dated:
            if at < attempt.started_at or (attempt.ended_at is not None and at > attempt.ended_at):
                evidence = f"{what} of {index.name(attempt)} came {at.isoformat()}, outside of its life"
                yield Violation(Rule.LATE_WRITE, job.id, evidence)


def _verdicts(index: Index, job: JobRow, path: list[TransitionRow], attempts: list[AttemptRow]) -> Iterator[Violation]:
    places = [place for place, row in enumerate(path) if row.to_status == "running"]
    resumes = 0
    for attempt, place in zip(attempts, places, strict=False):
        after = path[place + 1] if place + 1 < len(path) else None
        if attempt.status == "running":
            if after is not None:
                evidence = f"{index.name(attempt)} is running, the job went on to {after.to_status}"
                yield Violation(Rule.ATTEMPT_LEFT_RUNNING, job.id, evidence)
            continue
        if after is None or after.to_status not in _consequences(index, job, attempt, resumes):
            became = "running" if after is None else after.to_status
            evidence = (
                f"{index.name(attempt)} ended as {attempt.status} ({_failure_class(attempt)}), the job is {became}"
            )
            yield Violation(Rule.VERDICT_WRONG, job.id, f"{evidence} after {resumes} resumes")
        resumes += attempt.status in ("lost", "failed") and after is not None and after.to_status == "queued"
    if resumes != job.resumes or resumes > index.seen.max_resumes:
        evidence = f"it was resumed {resumes} times, counts {job.resumes}, and may be {index.seen.max_resumes} times"
        yield Violation(Rule.TOO_MANY_RESUMES, job.id, evidence)


def _failure_class(attempt: AttemptRow) -> str | None:
    return (attempt.failure or {}).get("failure_class")


def _consequences(index: Index, job: JobRow, attempt: AttemptRow, resumes: int) -> set[str]:
    """What a job may become when an attempt of it has ended so."""
    cancelled = {"cancelled"} if job.cancel_requested_at is not None else set()
    match attempt.status:
        case "succeeded":
            return {"succeeded"}
        case "cancelled":
            return cancelled
        case "released":
            return {"queued", "paused"} | cancelled
        case "failed" | "lost" if _failure_class(attempt) not in RETRIED:
            return {"failed"} | cancelled
        case "failed" | "lost" if resumes >= index.seen.max_resumes:
            return {"failed", "paused"} | cancelled
        case "failed" | "lost":
            return {"queued", "paused"} | cancelled
        case _:
            return set()


def _trainings(index: Index, job: JobRow, attempts: list[AttemptRow]) -> Iterator[Violation]:
    """Only who was given up as lost may train on beside its successor: nobody could tell it, and its word is void."""
    for attempt in attempts:
        began = [record for record in index.audit_logs[attempt.id] if isinstance(record, Began)]
        if len(began) > 1:
            processes = ", ".join(f"process {record.pid} of {record.worker}" for record in began)
            yield Violation(Rule.RAN_TWICE, job.id, f"{index.name(attempt)} was trained by {processes}")
    for one, two in pairwise([attempt for attempt in attempts if index.audit_logs[attempt.id]]):
        last, first = index.audit_logs[one.id][-1].monotonic, index.audit_logs[two.id][0].monotonic
        if one.status != "lost" and first < last:
            evidence = (
                f"{index.name(two)} was being trained at {first:.3f} s, "
                f"{index.name(one)}, which ended as {one.status}, until {last:.3f} s"
            )
            yield Violation(Rule.RAN_TWICE, job.id, evidence)
