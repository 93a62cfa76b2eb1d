"""From what a comparison names to the files of matches behind it, or to what has to be done for there to be one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import select

from api.database import Session
from api.errors import Conflict, InvalidSpec, NotFound, invalid_query
from api.models import Artifact, Job
from api.services.jobs import store
from crosskd.spec.results.files import MATCHES_FILES, MatchesKind
from wire.compare import MIN_COMPARED, TEACHER
from wire.errors import Fault
from wire.jobs import FINAL
from wire.reports import Model

_KINDS: dict[Model, MatchesKind] = {"student": "matches", "teacher": "teacher_matches"}


class StoredMatches(NamedTuple):
    """The matches of one model, where they lie and whose they are."""

    ref: str
    job: str
    name: str
    model: Model
    step: int | None
    key: str
    size: int
    sha256: str
    again: str  # the command that evaluates the model anew


def find(session: Session, refs: Sequence[str], baseline: str | None) -> list[StoredMatches]:
    """The baseline's first; without `baseline` it is the first of `refs`.

    Raises:
        NotFound: there is no such job.
        Conflict: a job has not ended.
        InvalidSpec: fewer than two, one twice, a baseline that is none of them, or one without matches.
    """
    if twice := next((ref for place, ref in enumerate(refs) if ref in refs[:place]), None):
        raise invalid_query("job", f"{twice[:100]!r} is named twice", "Name each once.")
    if len(refs) < MIN_COMPARED:
        raise invalid_query("job", "there is nothing to compare it with", "Name two jobs: ?job=A&job=B.")
    baseline = refs[0] if baseline is None else baseline
    if baseline not in refs:
        remedy = f"It is one of {', '.join(ref[:100] for ref in refs)}."
        raise invalid_query("baseline", f"{baseline[:100]!r} is none of the jobs that are compared", remedy)
    ordered = [baseline, *(ref for ref in refs if ref != baseline)]
    jobs = [_job(session, ref) for ref in ordered]
    faults: list[Fault] = []
    found: list[StoredMatches] = []
    for ref, job in zip(ordered, jobs, strict=True):
        model: Model = "teacher" if ref.endswith(TEACHER) else "student"
        artifact = session.scalar(
            select(Artifact).where(Artifact.job_id == job.id, Artifact.name == MATCHES_FILES[_KINDS[model]])
        )
        if artifact is None:
            faults.append(_missing(job, model))
            continue
        found.append(
            StoredMatches(
                ref=ref,
                job=job.id,
                name=job.name,
                model=model,
                step=artifact.step,
                key=artifact.path,
                size=artifact.size,
                sha256=artifact.sha256,
                again=evaluate_command(job, model),
            )
        )
    if faults:
        raise InvalidSpec("not all of these have matches to compare", remedy="See `errors`.", errors=faults)
    return found


def _job(session: Session, ref: str) -> Job:
    job_id = ref.removesuffix(TEACHER)
    try:
        job = store.find(session, job_id)
    except NotFound as error:
        raise NotFound(f"there is no job {job_id[:100]!r}", remedy=error.remedy) from None
    if job.status not in FINAL:
        raise Conflict(
            f"the job {job.id} has not ended: it is {job.status}",
            remedy=f"Compare it when it has: `crosskd watch {job.id}` waits for it.",
        )
    return job


def _missing(job: Job, model: Model) -> Fault:
    """Why there are no matches, and how to get some."""
    command = evaluate_command(job, model)
    again = f"Run `{command}`, and compare the job that it makes." if command else ""
    if job.kind == "export":
        what, remedy = "an export measures nothing", "Compare the job whose weights it exported."
    elif job.kind == "import":
        what, remedy = "an import of a data set measures nothing", "Compare trainings or evaluations."
    elif model == "teacher" and not job.spec.get("teacher"):
        what, remedy = "it was trained without a teacher", "Compare its student: name the job alone."
    elif job.status != "succeeded":
        what, remedy = f"it has {_ENDED[job.status]} before it was evaluated", "Compare a job that has succeeded."
    elif model == "teacher" and not job.spec.get("evaluation", {}).get("teacher_first", True):
        what, remedy = "its teacher was not evaluated (`evaluation.teacher_first`)", again
    else:
        what, remedy = "it was run by a version that kept no matches", again
    return Fault(pointer="job", detail=f"the {model} of the job {job.id} has no matches: {what}", remedy=remedy)


_ENDED = {"failed": "failed", "cancelled": "been cancelled"}


def evaluate_command(job: Job, model: Model) -> str:
    """What evaluates that model once more, on the validation split of the job; empty if nothing does."""
    spec: dict[str, Any] = job.spec
    if model == "teacher":
        weights = (spec.get("teacher") or {}).get("weights")
    else:
        weights = spec.get("weights") if job.kind == "evaluate" else {"job": job.id}
    data = spec.get("data") or {}
    if not weights or not data.get("val"):
        return ""
    words = ["crosskd", "submit", "evaluate"]
    words += ["--weights-job", weights["job"]] if "job" in weights else ["--weights-file", weights["file"]]
    if data.get("dataset"):
        words += ["--set", f"data.dataset={data['dataset']}"]
    else:
        for name in ("annotations", "images"):
            words += ["--set", f"data.val.{name}={data['val'][name]}"]
    if data.get("classes"):  # its annotation file may have others besides
        words += ["--set", f"data.classes={json.dumps(data['classes'], ensure_ascii=False)}"]
    if spec.get("as_is") or (spec.get("evaluation") or {}).get("as_is"):
        words += ["--set", "as_is=true"]
    return shlex.join(words)
