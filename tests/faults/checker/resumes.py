"""A training that was interrupted goes on from what was written, and comes to the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.checker.index import Index
from tests.faults.checker.journal import SHOWN
from tests.faults.checker.rows import AttemptRow, JobRow
from tests.faults.checker.violations import Rule, Violation
from worker.training.audit_log import Began, Points, Wrote


def check_resumes(index: Index) -> Iterator[Violation]:
    for job in index.jobs.values():
        for attempt in index.attempts[job.id]:
            yield from _origin(index, job, attempt)
            yield from _ignored(index, attempt)
        yield from _repeated(index, job)
        yield from _weights(index, job)


def _origin(index: Index, job: JobRow, attempt: AttemptRow) -> Iterator[Violation]:
    """The checkpoint that the claim named was written by an earlier attempt, and the training got its very bytes."""
    began = next((record for record in index.audit_logs[attempt.id] if isinstance(record, Began)), None)
    if began is not None and (began.resume_step or 0) != attempt.resumed_from_step:
        evidence = f"{index.name(attempt)} began at {began.resume_step}, its row says {attempt.resumed_from_step}"
        yield Violation(Rule.RESUMED_FROM_NOWHERE, job.id, evidence)
        return
    if not attempt.resumed_from_step:
        return
    sources = [other for other in index.attempts[job.id] if other.number < attempt.number]
    if job.start and job.start["step"] == attempt.resumed_from_step:
        if job.start["job"] not in index.jobs:
            return  # deleted since, with all that is known of it
        sources += index.attempts[job.start["job"]]
    written = {
        record.sha256
        for source in sources
        for record in index.audit_logs[source.id]
        if isinstance(record, Wrote) and record.step == attempt.resumed_from_step and record.name.endswith(".pt")
    }
    if not written:
        evidence = f"{index.name(attempt)} resumed from step {attempt.resumed_from_step}, where none was written"
        yield Violation(Rule.RESUMED_FROM_NOWHERE, job.id, evidence)
    elif began is not None and began.resume_sha256 not in written:
        evidence = f"{index.name(attempt)} resumed from bytes {began.resume_sha256}, written were {sorted(written)}"
        yield Violation(Rule.RESUMED_FROM_NOWHERE, job.id, evidence)


def _ignored(index: Index, attempt: AttemptRow) -> Iterator[Violation]:
    """What the attempt just before has published, and what still stands, was there to go on from."""
    for row in index.artifacts[attempt.job_id]:
        maker = index.attempt_rows.get(row.attempt_id)
        if (
            row.kind == "checkpoint"
            and maker is not None
            and maker.number == attempt.number - 1
            and row.created_at < attempt.started_at
            and (row.step or 0) > attempt.resumed_from_step
        ):
            evidence = f"{row.name} stood before {index.name(attempt)} began at step {attempt.resumed_from_step}"
            yield Violation(Rule.CHECKPOINT_IGNORED, attempt.job_id, evidence)


def _repeated(index: Index, job: JobRow) -> Iterator[Violation]:
    """Steps that were taken twice, as the first time was not checkpointed, had the same losses: on a CPU, exactly."""
    known: dict[tuple[int, str], tuple[AttemptRow, str]] = {}
    differing: list[str] = []
    for attempt in index.attempts[job.id]:
        if attempt.device != "cpu":
            return
        for record in index.audit_logs[attempt.id]:
            for key, value in record.values.items() if isinstance(record, Points) else ():
                if not key.startswith("loss"):
                    continue
                first, before = known.setdefault((record.step, key), (attempt, value))
                if value != before:
                    now, then = f"{value} in attempt {attempt.number}", f"{before} in attempt {first.number}"
                    differing.append(f"{key} of step {record.step} is {now}, {then}")
    if differing:
        yield Violation(Rule.RESUME_DIFFERS, job.id, f"{len(differing)} losses: {'; '.join(differing[:SHOWN])}")


def _weights(index: Index, job: JobRow) -> Iterator[Violation]:
    if job.status != "succeeded" or index.result(job.id).get("stopped_early"):
        return
    artifacts = {row.name: row for row in index.artifacts[job.id]}
    for name, wanted in index.seen.references.get(job.name, {}).items():
        file = index.files.get(artifacts[name].path) if name in artifacts else None
        if file is None or file.tensors is None:
            continue  # other rules tell of it
        if differing := sorted(key for key in wanted.keys() | file.tensors if wanted.get(key) != file.tensors.get(key)):
            evidence = f"{len(differing)} of {len(wanted)} tensors of {name} differ, among them {differing[:SHOWN]}"
            yield Violation(Rule.WEIGHTS_DIFFER, job.id, f"{evidence}; it took {job.attempt} attempts")
