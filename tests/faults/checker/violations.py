"""What the checker can find, and how it says so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """The rules of a history; the value says which one was broken."""

    # What a client was told.
    JOB_LOST = "a job that a client saw accepted is gone"
    JOB_CHANGED = "a job is not the one that was accepted"
    JOB_UNFINISHED = "a job has reached no final state"
    JOB_DOUBLED = "one request has made more than one job"
    FINAL_CHANGED = "a final state has changed"
    STATUS_IMPOSSIBLE = "a client saw a status that the job cannot have had then"
    DOWNLOAD_CORRUPT = "a client got other bytes than were promised"
    # The life of a job and its attempts.
    TRANSITION_ILLEGAL = "the transitions are no path through the state machine"
    TIME_REVERSED = "a later row has an earlier time"
    ATTEMPTS_OVERLAP = "two attempts of a job lived at once"
    FENCING_BROKEN = "the fencing numbers are not 1, 2, 3 ..."
    LATE_WRITE = "something was accepted from an attempt that was not live"
    LEASE_IGNORED = "an attempt was given up although its lease held"
    VERDICT_WRONG = "what became of a job does not follow from how its attempt ended"
    ATTEMPT_LEFT_RUNNING = "an attempt runs on in a job that does not"
    TOO_MANY_RESUMES = "a job was resumed more often than may be, or its count is wrong"
    RAN_TWICE = "a job was trained twice at once by the workers' own records"
    DEPENDENCY_IGNORED = "a job began or failed regardless of the jobs whose weights it needs"
    # Metrics and evaluations against the training's own audit_log.
    AUDIT_LOG_MISSING = "something was stored of an attempt whose training left no audit_log"
    POINT_LOST = "a reported point was not stored"
    POINT_DOUBLED = "a point is stored twice"
    POINT_INVENTED = "a stored point was never reported"
    POINT_CHANGED = "a stored point is not the one that was reported"
    SUMMARY_WRONG = "a summary of points is not that of the points"
    SERIES_HOLE = "the series of a job has a hole"
    EVALUATION_WRONG = "the stored evaluations are not those that were reported"
    # Resumes.
    RESUMED_FROM_NOWHERE = "an attempt went on from a checkpoint that nobody wrote"
    CHECKPOINT_IGNORED = "an attempt went on from further back than it could have"
    RESUME_DIFFERS = "a resumed training computed other losses than its predecessor"
    WEIGHTS_DIFFER = "weights are not those of the uninterrupted run"
    # Files.
    FILE_MISSING = "an artifact's row has no file"
    FILE_CORRUPT = "an artifact's bytes are not those of its digest and size"
    FILE_UNNAMED = "an old file is named by no row"
    FILE_FOREIGN = "an artifact is not what the training wrote"
    RESULT_MISSING = "a job that succeeded lacks a result"
    RESULT_WRONG = "a result of a job is not the one that its manifest and evaluations tell of"
    # Bookkeeping.
    EVENTS_GAP = "the numbers of a job's events are not 1, 2, 3 ..."
    EVENTS_WRONG = "a job's events and its rows do not tell the same"
    MESSAGE_STRAY = "a message waits for a job that is not queued, or a queued job has none"


@dataclass(frozen=True)
class Violation:
    """One broken rule: of which job (None: of none in particular), and ids, times and numbers in words."""

    rule: Rule
    job_id: str | None
    evidence: str

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.rule.value}: {f'job {self.job_id}: ' if self.job_id else ''}{self.evidence}"
