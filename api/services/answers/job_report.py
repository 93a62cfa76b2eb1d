"""What the report of a job is made from, out of the database and the storage."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select

from api.database import Database, Session
from api.errors import InvalidSpec, NotFound
from api.models import Attempt, Job, Sweep, SweepJob
from api.services.files import artifacts
from api.services.history import downsampling, evaluations, series
from api.services.jobs import store
from api.settings import Settings
from api.storage import Storage
from report.job import Record, build, chosen_evaluation
from wire.job_report import JobReport
from wire.reports import Curves, Evaluation, Model

log = logging.getLogger(__name__)

BUCKETS = 400  # of each series: more than a chart has pixels for is not seen
MODELS: tuple[Model, ...] = ("student", "teacher")
# What a comparison needs to be alike, where the job itself has it: an evaluation has no student.
_SAME = (
    (("data", "val"), "was measured on other validation data", "`data.val`"),
    (("data", "classes"), "knows other classes", "`data.classes`"),
    (("evaluation", "as_is"), "counts boxes in another way", "`evaluation.as_is`"),
    (("student", "detector"), "trained another student", "`student`"),
    (("student", "backbone", "name"), "trained another student", "`student`"),
)


def job_report(database: Database, storage: Storage, settings: Settings, job_id: str, alone: str | None) -> JobReport:
    """The report of a job; `alone` names the training of the same student without the teacher.

    Without it, of a job of a sweep, it is the baseline's with the same seed, once that has succeeded.

    Raises `NotFound` for a job that there is not, and `InvalidSpec` for an `alone` that is none to compare with.
    """
    record = _record(database, storage, settings, job_id)
    if alone is not None:
        return build(record, _alone(database, storage, settings, record, alone))
    return build(record, _baseline(database, storage, settings, job_id))


def _baseline(database: Database, storage: Storage, settings: Settings, job_id: str) -> Record | None:
    with database.reading() as session:
        partner = _partner(session, job_id)
    try:
        return None if partner is None else _record(database, storage, settings, partner)
    except NotFound:  # deleted meanwhile
        return None


def _partner(session: Session, job_id: str) -> str | None:
    """The job of the baseline that a sweep compares this one with; None: there is none, or it has not ended well."""
    own = session.scalar(select(SweepJob).where(SweepJob.job_id == job_id, SweepJob.role == "arm"))
    if own is None:
        return None
    others = (
        select(SweepJob)
        .join(Sweep, Sweep.id == SweepJob.sweep_id)
        .join(Job, Job.id == SweepJob.job_id)
        .where(Sweep.id == own.sweep_id, SweepJob.arm == Sweep.baseline, SweepJob.arm != own.arm)
        .where(SweepJob.seed == own.seed, Job.status == "succeeded", Job.kind == "train")
        .order_by(SweepJob.place)
    )
    fit = (
        row for row in session.scalars(others) if all(own.point.get(knob) == value for knob, value in row.point.items())
    )
    return next((row.job_id for row in fit), None)


def _alone(database: Database, storage: Storage, settings: Settings, record: Record, job_id: str) -> Record:
    try:
        alone = _record(database, storage, settings, job_id)
    except NotFound as error:
        raise InvalidSpec(f"`alone`: {error}", remedy="Name the job that trained the student alone.") from error
    if alone.job.id == record.job.id:
        raise InvalidSpec("`alone`: that is this job itself", remedy="Name the job that trained the student alone.")
    if alone.job.kind != "train":
        raise InvalidSpec(
            f"`alone`: that job is of kind {alone.job.kind}",
            remedy="Name a training without a teacher, of kind `train`.",
        )
    for path, what, remedy in _SAME:
        theirs, ours = (_at(one.job.spec, path) for one in (alone, record))
        if theirs != ours and (ours is not None or path[-1] == "val"):
            raise InvalidSpec(f"`alone`: that job {what}", remedy=f"Name a job with the same {remedy}.")
    return alone


def _at(spec: dict[str, Any], path: Sequence[str]) -> Any:
    node: Any = spec
    for part in path:
        node = (node or {}).get(part)
    return node


def _record(database: Database, storage: Storage, settings: Settings, job_id: str) -> Record:
    with database.session() as session:
        job = store.find(session, job_id)
        rows = evaluations.for_report(session, job.id)
        result = session.scalar(
            select(Attempt.result)
            .where(Attempt.job_id == job.id, Attempt.result.is_not(None))
            .order_by(Attempt.number.desc())
            .limit(1)
        )
        losses = downsampling.read(
            session, job.id, keys=[], since_step=0, until_step=series.LAST, buckets=BUCKETS, attempt=None
        )
        files = artifacts.listing(session, job.id).items
        told = store.detail(session, settings, job)
        before = evaluations.carried(session, job)
        sweep = session.scalar(select(SweepJob.sweep_id).where(SweepJob.job_id == job.id).limit(1))
    carried = {model: found.evaluation for model, found in before.items()}
    curves = {}
    for model in MODELS:
        chosen = chosen_evaluation(rows, model, carried)
        source = before[model].job_id if chosen is not None and chosen is carried.get(model) else job_id
        if chosen is not None and (drawn := _curves(database, storage, source, chosen, model)) is not None:
            curves[model] = drawn
    return Record(told, rows, result or {}, curves, losses, files, carried, sweep)


def _curves(database: Database, storage: Storage, job_id: str, chosen: Evaluation, model: Model) -> Curves | None:
    """Of the evaluation that the report shows; None where they are not to be had, which a report can do without."""
    if chosen.curves is None:
        return None
    try:
        with artifacts.open_curves(database, storage, job_id, model, chosen.step).file as file:
            return Curves.model_validate_json(file.read())
    except (NotFound, OSError, ValidationError) as error:
        log.warning("the report of job %s goes without curves of its %s: %s", job_id, model, error)
        return None
