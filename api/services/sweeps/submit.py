"""What `POST /sweeps` does: all jobs of the sweep are stored in the request's one transaction, or none."""

from __future__ import annotations

import hashlib
import json

from api.database import Session
from api.models import Sweep, SweepJob, new_id
from api.services.answers import sweeps as answers
from api.services.jobs import capable, store
from api.services.submission import submit as jobs
from api.services.sweeps import estimates
from api.services.sweeps.order import baseline_of
from api.services.sweeps.plan import Plan, PlannedChild, plan
from api.settings import Settings
from api.storage import Storage
from report.verdict import FEWEST
from wire import sweeps as wire


def submit(
    session: Session, settings: Settings, storage: Storage, order: wire.SweepCreate, owner: str, *, dry_run: bool
) -> wire.SubmittedSweep | wire.SweepDryRun:
    """Store the sweep and its jobs. A `dry_run` lists them.

    Raises:
        InvalidSpec: with every fault of every arm.
        Unavailable: too many annotation files are being checked.
        Conflict: weights of a former job that an arm needs are gone.
        QuotaExceeded: `owner` would have too many jobs waiting.
    """
    sweep_id = new_id()
    planned = plan(session, settings, storage, order, sweep_id)
    notes = [*_without_interval(order, planned), *planned.notes, *_notes(session, planned)]
    if dry_run:
        return _dry_run(session, order, planned, notes)
    sweep = Sweep(
        id=sweep_id,
        name=order.name,
        owner=owner,
        labels=order.labels,
        priority=order.priority,
        spec=order.model_dump(mode="json", exclude_unset=True),
        baseline=baseline_of(order),
        created_at=session.now(),
    )
    session.add(sweep)
    session.flush()
    for place, child in enumerate(planned.children):
        job = jobs.keep(session, settings, child.order, child.spec, owner, child.id, child.warnings)
        session.add(
            SweepJob(
                sweep_id=sweep.id,
                place=place,
                job_id=job.id,
                role=child.role,
                arm=child.arm,
                seed=child.seed,
                point=child.point,
                name=job.name,
            )
        )
    session.flush()
    answer = answers.detail(session, sweep)
    return wire.SubmittedSweep(**dict(answer), notes=notes, warnings=planned.warnings)


def _without_interval(order: wire.SweepCreate, planned: Plan) -> list[str]:
    """That no arm can be shown to differ, said before the hours are spent."""
    pairs = sum(child.arm == baseline_of(order) for child in planned.children)
    if len(order.arms) == 1 or pairs >= FEWEST:
        return []
    return ["one seed makes one pair for each arm, which has no interval: no verdict is possible. Give two or more."]


def _notes(session: Session, planned: Plan) -> list[str]:
    """What no known worker could run, once for jobs that are alike in that."""
    found: dict[str, None] = {}
    for spec in {child.arm: child.spec for child in planned.children}.values():
        stored = spec.model_dump(mode="json")
        found |= dict.fromkeys(capable.warnings(session, "train", store.queue_of(stored), stored))
    return list(found)


def _dry_run(session: Session, order: wire.SweepCreate, planned: Plan, notes: list[str]) -> wire.SweepDryRun:
    known = estimates.measured(session, [child.spec for child in planned.children])
    teacher = next((child.id for child in planned.children if child.role == "teacher"), "")
    jobs_ = [_planned(child, teacher, known.seconds(child.spec, planned.images)) for child in planned.children]
    seconds = [job.estimated_seconds for job in jobs_ if job.estimated_seconds is not None]
    return wire.SweepDryRun(
        name=order.name,
        baseline=baseline_of(order),
        jobs=jobs_,
        estimated_seconds=sum(seconds) if len(seconds) == len(jobs_) else None,
        estimate=known.text(len(jobs_), len(seconds)),
        notes=notes,
        warnings=planned.warnings,
    )


def _planned(child: PlannedChild, teacher: str, seconds: float | None) -> wire.PlannedJob:
    """`teacher` is the id of the job that trains it, if one does: it is another in every run."""
    text = json.dumps(child.spec.model_dump(mode="json"), sort_keys=True)
    text = text.replace(teacher, "teacher") if teacher else text
    return wire.PlannedJob(
        role=child.role,
        arm=child.arm,
        seed=child.seed,
        point=child.point,
        kind=child.order.kind,
        name=child.order.name,
        spec_sha256=hashlib.sha256(text.encode()).hexdigest(),
        estimated_seconds=seconds,
    )
