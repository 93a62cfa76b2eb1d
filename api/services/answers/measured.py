"""The jobs of a sweep and what each has reached, read from the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.orm import defer

from api.database import Session
from api.models import Attempt, Evaluation, Job, SweepJob
from api.services.history import evaluations
from wire.scalars import figure
from wire.sweeps import Point

SIZES = {"small": "APs", "medium": "APm", "large": "APl"}


@dataclass(frozen=True)
class Figures:
    """Of a job that ended well; None or missing: it has not told. AP and its parts are 0..1."""

    ap: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    by_size: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, float] = field(default_factory=dict)
    milliseconds: float | None = None
    seconds: float | None = None
    parameters: int | None = None
    megabytes: float | None = None


@dataclass(frozen=True)
class Child:
    """A job of a sweep; `job` is None once it was deleted."""

    place: SweepJob
    job: Job | None
    figures: Figures

    @property
    def status(self) -> str:
        return "deleted" if self.job is None else self.job.status

    @property
    def arm(self) -> str:
        return self.place.arm or ""

    @property
    def seed(self) -> int:
        return self.place.seed

    @property
    def point(self) -> Point:
        return self.place.point

    @property
    def ap(self) -> float | None:
        """Of the best student, once the job has ended well."""
        return self.figures.ap if self.status == "succeeded" else None


def children(session: Session, sweep_id: str) -> list[Child]:
    """In the order in which they were made."""
    query = select(SweepJob, Job).outerjoin(Job, Job.id == SweepJob.job_id).where(SweepJob.sweep_id == sweep_id)
    # Without the specifications: there may be hundreds, of a megabyte each, and who watches a sweep asks every second.
    rows = list(session.execute(query.order_by(SweepJob.place).options(defer(Job.spec))))
    ended = [job for _, job in rows if job is not None and job.status == "succeeded"]
    reports, manifests = _best_reports(session, ended), _manifests(session, ended)
    return [
        Child(place, job, _figures(job, reports.get(place.job_id, {}), manifests.get(place.job_id, {})))
        for place, job in rows
    ]


def _best_reports(session: Session, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """By job, the evaluation that its best student had: of several with that AP, the latest."""
    if not jobs:
        return {}
    wanted = {job.id: job.best_ap for job in jobs}
    # First the APs alone: a report has thousands of numbers, and a job dozens of reports.
    ap = Evaluation.report[("metrics", "AP")].label("ap")
    query = (
        select(Attempt.job_id, Evaluation.attempt_id, Evaluation.step, ap)
        .join(Attempt, Attempt.id == Evaluation.attempt_id)
        .where(Attempt.job_id.in_(list(wanted)), Evaluation.model == "student")
        .order_by(Attempt.number, Evaluation.step)
    )
    keys = {
        (row.attempt_id, row.step): row.job_id for row in session.execute(query) if _same(row.ap, wanted[row.job_id])
    }
    latest = {job: key for key, job in keys.items()}
    found = select(Evaluation).where(
        tuple_(Evaluation.attempt_id, Evaluation.step).in_(list(latest.values())), Evaluation.model == "student"
    )
    reports = {(row.attempt_id, row.step): row.report for row in session.scalars(found)}
    known = {job: reports[key] for job, key in latest.items() if key in reports}
    # A retry that got no better delivers the best student from before its start, which a former job has reported.
    for job in jobs:
        if job.id not in known and (best := evaluations.carried(session, job).get("student")) is not None:
            known[job.id] = best.evaluation.model_dump()
    return known


def _same(told: Any, kept: float | None) -> bool:
    """Whether a number out of a report is the one of a column: SQLite gives what it takes out of JSON in 15 digits."""
    return isinstance(told, float | int) and kept is not None and math.isclose(told, kept, rel_tol=1e-12)


def _manifests(session: Session, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """By job, the few figures of its manifest that are wanted here."""
    if not jobs:
        return {}
    columns = {
        "seconds": Attempt.result["seconds"],
        "parameters": Attempt.result[("student", "parameters")],
        "megabytes": Attempt.result[("student", "megabytes")],
    }
    query = select(Attempt.job_id, *(column.label(name) for name, column in columns.items())).where(
        Attempt.job_id.in_([job.id for job in jobs]), Attempt.status == "succeeded"
    )
    return {row["job_id"]: dict(row) for row in session.execute(query).mappings()}


def _figures(job: Job | None, report: dict[str, Any], manifest: dict[str, Any]) -> Figures:
    if job is None:
        return Figures()
    metrics = report.get("metrics", {})
    parameters = figure(manifest.get("parameters"))
    return Figures(
        ap=_share(job.best_ap),
        ap50=_share(metrics.get("AP50")),
        ap75=_share(metrics.get("AP75")),
        by_size=_known({size: metrics.get(name) for size, name in SIZES.items()}),
        by_class=_known(report.get("per_class", {})),
        milliseconds=figure(report.get("milliseconds_per_image")),
        seconds=figure(manifest.get("seconds")),
        parameters=None if parameters is None else int(parameters),
        megabytes=figure(manifest.get("megabytes")),
    )


def _known(values: dict[str, Any]) -> dict[str, float]:
    return {name: share for name, value in values.items() if (share := _share(value)) is not None}


def _share(value: Any) -> float | None:
    """A figure of COCO; -1 is none."""
    number = figure(value)
    return number if number is not None and number >= 0 else None
