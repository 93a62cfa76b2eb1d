"""Files and rows name each other, the bytes are those of the digests, and those are of what the training wrote."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.checker.index import TRAININGS, Index
from tests.faults.checker.rows import ArtifactRow, EvaluationRow, JobRow
from tests.faults.checker.violations import Rule, Violation
from worker.training.audit_log import Wrote

LOG = "log.txt"  # it grows while it is sent: no audit_log knows its bytes
WEIGHTS = ("best.safetensors", "last.safetensors")
HANDED_ON = ("checkpoint", "curves", "samples")
RESULTS = {*WEIGHTS, "manifest.json", LOG}


def check_files(index: Index) -> Iterator[Violation]:
    for artifact in index.history.artifacts:
        yield from _bytes(index, artifact)
        yield from _origin(index, artifact)
    named = {artifact.path for artifact in index.history.artifacts}
    for file in index.files.values():
        if file.key not in named and file.age > index.seen.sweep_seconds:
            evidence = (
                f"{file.key} ({file.size} bytes) is {file.age:.0f} s old, {index.seen.sweep_seconds:.0f} s are due"
            )
            yield Violation(Rule.FILE_UNNAMED, None, evidence)
    for job in index.jobs.values():
        if job.status == "succeeded" and job.kind in TRAININGS:
            yield from _results(index, job)


def _bytes(index: Index, artifact: ArtifactRow) -> Iterator[Violation]:
    file = index.files.get(artifact.path)
    if file is None:
        yield Violation(Rule.FILE_MISSING, artifact.job_id, f"{artifact.name}: {artifact.path} is not there")
    elif (file.size, file.sha256) != (artifact.size, artifact.sha256):
        evidence = f"{artifact.name}: {file.size} bytes of sha256 {file.sha256}"
        wanted = f"the row says {artifact.size} of {artifact.sha256}"
        yield Violation(Rule.FILE_CORRUPT, artifact.job_id, f"{evidence}, {wanted}")


def _origin(index: Index, artifact: ArtifactRow) -> Iterator[Violation]:
    """What an attempt could not deliver of checkpoints and of files of its evaluations, a later one may."""
    records = index.audit_logs[artifact.attempt_id]
    if not records or artifact.name == LOG:
        return
    number = index.attempt_rows[artifact.attempt_id].number
    for other in index.attempts[artifact.job_id] if artifact.kind in HANDED_ON else ():
        if other.number < number:
            records = (*index.audit_logs[other.id], *records)
    written = {record.sha256: record.step for record in records
               if isinstance(record, Wrote) and record.name == artifact.name}  # fmt: skip
    if artifact.sha256 not in written:
        evidence = (
            f"{artifact.name} of attempt {artifact.attempt_id} is {artifact.sha256}, written were {list(written)}"
        )
        yield Violation(Rule.FILE_FOREIGN, artifact.job_id, evidence)
    elif written[artifact.sha256] != artifact.step:
        evidence = f"{artifact.name} is of step {written[artifact.sha256]}, its row says {artifact.step}"
        yield Violation(Rule.FILE_FOREIGN, artifact.job_id, evidence)


def _results(index: Index, job: JobRow) -> Iterator[Violation]:
    """A training that succeeded left what its manifest tells of: the best student's weights, and the last step's."""
    artifacts = {artifact.name: artifact for artifact in index.artifacts[job.id]}
    if missing := sorted(RESULTS - artifacts.keys()):
        yield Violation(Rule.RESULT_MISSING, job.id, f"it has no {', '.join(missing)}")
        return
    manifest = index.result(job.id)
    for name in WEIGHTS:
        told = manifest.get("weights", {}).get(name, {}).get("sha256")
        if artifacts[name].sha256 != told:
            yield Violation(Rule.RESULT_WRONG, job.id, f"{name} is {artifacts[name].sha256}, the manifest says {told}")
    steps = {"last.safetensors": manifest.get("steps")}
    if job.start is None:  # the best student of a retry may be from before it
        steps["best.safetensors"] = _best_step(index, job)
    for name, step in steps.items():
        if artifacts[name].step != step:
            yield Violation(Rule.RESULT_WRONG, job.id, f"{name} is of step {artifacts[name].step}, it should be {step}")


def _best_step(index: Index, job: JobRow) -> int | None:
    """Of the first evaluation of the student that was as good as any, over all attempts."""
    found: dict[int, EvaluationRow] = {}
    for stretch in index.stretches(job.id):  # of two evaluations of a step, the later attempt's
        rows = index.evaluations[stretch.attempt.id]
        found |= {row.step: row for row in rows if row.model == "student" and row.step <= stretch.last}
    best = max((row.report["metrics"]["AP"] for row in found.values()), default=None)
    return next((step for step in sorted(found) if found[step].report["metrics"]["AP"] == best), None)
