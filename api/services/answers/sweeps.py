"""Sweeps as a client sees them: a list, and one with its answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from sqlalchemy import func, select

from api.database import Session
from api.errors import NotFound, invalid_query
from api.models import ID, Job, SweepJob, id_range
from api.models import Sweep as Row
from api.services.answers import arms
from api.services.answers.measured import Child, children
from report import verdict
from wire import sweeps as wire
from wire.jobs import FINAL

_OVER = FINAL | {"deleted"}
_USELESS = 0.01  # AP below which a difference says nothing of a method
_NAMED = 10  # failed jobs that the answer names; the results name all
_SAME_AP = 0.001  # between two measurements of one teacher
_ACTIONS = ("cancel", "pause", "resume", "retry")


def find(session: Session, sweep_id: str, *, lock: bool = False) -> Row:
    """Raises `NotFound`, also for what is no id at all."""
    sweep = session.get(Row, sweep_id, with_for_update=lock or None) if ID.fullmatch(sweep_id) else None
    if sweep is None:
        raise NotFound("there is no such sweep", remedy="GET /sweeps lists the sweeps.")
    return sweep


def page(
    session: Session,
    *,
    after: str | None = None,
    limit: int,
    owner: str | None = None,
    name: str | None = None,
    prefix: str | None = None,
) -> wire.SweepPage:
    """Newest first, from below the id `after`; `prefix` are hex digits with which the id begins."""
    query = select(Row).order_by(Row.id.desc()).limit(limit + 1)
    if after is not None:
        if not ID.fullmatch(after):
            raise invalid_query("after", "is no sweep's id", "Give the id of the last sweep of the page before.")
        query = query.where(Row.id < after)
    if owner is not None:
        query = query.where(Row.owner == owner)
    if name is not None:
        query = query.where(Row.name == name)
    if prefix is not None:
        query = query.where(Row.id.between(*id_range(prefix)))
    found = session.scalars(query).all()
    listed = found[:limit]
    counts = _counts(session, [sweep.id for sweep in listed])
    told = _verdicts(session, {sweep.id: sweep.baseline for sweep in listed})
    items = [
        wire.SweepSummary(**_summary(sweep, counts.get(sweep.id, {})), verdicts=told.get(sweep.id, {}))
        for sweep in listed
    ]
    return wire.SweepPage(items=items, has_more=len(found) > limit)


def detail(session: Session, sweep: Row) -> wire.Sweep:
    """The sweep with its jobs, and what may be said of its arms by now."""
    found = children(session, sweep.id)
    own = [child for child in found if child.place.role == "arm"]
    teacher = _teacher(found)
    counts = Counter(child.status for child in found)
    partial = any(child.status not in _OVER for child in found)
    results = arms.results(own, list(sweep.spec["arms"]), sweep.baseline, teacher.ap if teacher else None)
    here = f"/sweeps/{sweep.id}"
    return wire.Sweep(
        **_summary(sweep, counts),
        verdicts={
            result.arm: result.verdict.outcome for result in results if result.verdict is not None and result.difference
        },
        priority=sweep.priority,
        spec=sweep.spec,
        partial=partial,
        teacher=teacher,
        results=results,
        answer=_answer(found, results, teacher, partial=partial),
        children=[_child(child) for child in found],
        links={"self": here} | {what: f"{here}/{what}" for what in ("report", *_ACTIONS)},
    )


def status_of(counts: Mapping[str, int]) -> wire.SweepStatus:
    """Of a sweep, by how many of its jobs are in which state."""
    there = {status for status, count in counts.items() if count}
    if there <= _OVER:
        return "failed" if "failed" in there else "finished" if there <= {"succeeded"} else "cancelled"
    if "running" in there:
        return "running"
    if not there & {"queued", "waiting"}:
        return "paused"
    return "running" if there & _OVER else "waiting"


def _counts(session: Session, sweeps: Sequence[str]) -> dict[str, Counter[str]]:
    query = (
        select(SweepJob.sweep_id, Job.status, func.count())
        .outerjoin(Job, Job.id == SweepJob.job_id)
        .where(SweepJob.sweep_id.in_(sweeps))
        .group_by(SweepJob.sweep_id, Job.status)
    )
    found: dict[str, Counter[str]] = {}
    for sweep, status, count in session.execute(query):
        found.setdefault(sweep, Counter())[status or "deleted"] = count
    return found


class _Reached(NamedTuple):
    """What a job of an arm has come to; `ap` is None if it has not ended well, or has not told."""

    seed: int
    point: wire.Point
    ap: float | None


def _verdicts(session: Session, baselines: Mapping[str, str]) -> dict[str, dict[str, wire.Outcome]]:
    """By sweep and arm, for arms that have a pair. `baselines`: by sweep.

    A few columns alone: a list of sweeps may have thousands of jobs, and who watches it asks every few seconds.
    """
    query = (
        select(SweepJob.sweep_id, SweepJob.arm, SweepJob.seed, SweepJob.point, Job.status, Job.best_ap)
        .outerjoin(Job, Job.id == SweepJob.job_id)
        .where(SweepJob.sweep_id.in_(list(baselines)), SweepJob.role == "arm")
        .order_by(SweepJob.sweep_id, SweepJob.place)
    )
    reached: defaultdict[str, defaultdict[str, list[_Reached]]] = defaultdict(lambda: defaultdict(list))
    for sweep, arm, seed, point, status, best in session.execute(query):
        ap = best if status == "succeeded" and best is not None and best >= 0 else None
        reached[sweep][arm].append(_Reached(seed, point, ap))
    found: dict[str, dict[str, wire.Outcome]] = {}
    for sweep, by_arm in reached.items():
        baseline = baselines[sweep]
        pairs = {arm: arms.pairs(own, by_arm[baseline]) for arm, own in by_arm.items() if arm != baseline}
        found[sweep] = {
            arm: verdict.judge(arm, baseline, of_arm.differences).outcome
            for arm, of_arm in pairs.items()
            if of_arm.differences
        }
    return found


def _summary(sweep: Row, counts: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": sweep.id,
        "name": sweep.name,
        "owner": sweep.owner,
        "labels": sweep.labels,
        "status": status_of(counts),
        "created_at": sweep.created_at,
        "baseline": sweep.baseline,
        "arms": list(sweep.spec["arms"]),
        "seeds": sweep.spec.get("seeds", [0]),
        "jobs": dict(counts),
    }


def _child(child: Child) -> wire.SweepChild:
    place, job = child.place, child.job
    told = {} if job is None else {"best_ap": job.best_ap, "progress": job.progress, "failure": job.failure}
    return wire.SweepChild.model_validate(
        {
            "job": place.job_id,
            "role": place.role,
            "arm": place.arm,
            "seed": place.seed,
            "point": place.point,
            "name": place.name,
            "status": child.status,
            **told,
        }
    )


def _teacher(found: Iterable[Child]) -> wire.TeacherResult | None:
    """Its AP as the distillations have measured it; where none has yet, as its own training has."""
    training = next((child for child in found if child.place.role == "teacher"), None)
    measured = [child.job.teacher_ap for child in found if child.job and child.job.teacher_ap is not None]
    known = [ap for ap in measured if ap >= 0]
    ap = fmean(known) if known and max(known) - min(known) <= _SAME_AP else None
    if training is None:
        distils = any(child.job is not None and child.job.kind == "distill" for child in found)
        return wire.TeacherResult(ap=ap) if distils else None
    if not known and training.status == "succeeded":
        ap = training.figures.ap
    return wire.TeacherResult.model_validate({"job": training.place.job_id, "status": training.status, "ap": ap})


def _answer(
    found: Sequence[Child], results: Sequence[wire.ArmResult], teacher: wire.TeacherResult | None, *, partial: bool
) -> list[str]:
    """The verdicts in words, and what limits them."""
    lines = [result.verdict.sentence for result in results if result.verdict is not None]
    compared = len(lines)
    if compared > 1:
        lines.append(
            f"{compared} arms are compared, each with a 95 % interval of its own: of twenty arms that change nothing, "
            "one would look as if it did."
        )
    baseline = results[0]
    if teacher is not None and teacher.ap is not None and baseline.ap is not None and teacher.ap <= baseline.ap.mean:
        lines.append(f"The teacher (AP {teacher.ap:.3f}) is no better than {baseline.arm}: there is no gap to close.")
    reached = [result.ap.mean for result in results if result.ap is not None]
    if reached and max(reached) < _USELESS:
        lines.append(f"No arm has reached an AP of {_USELESS}: train longer before you compare (`schedule.epochs`).")
    lost = [arms.failed(child) for child in found if child.status in arms.ENDED_BADLY]
    if lost:
        more = f"; and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        lines.append(f"Not counted, for they did not end well: {'; '.join(lost[:_NAMED])}{more}.")
    if partial:
        ended = sum(child.status in _OVER for child in found)
        lines.append(f"{ended} of {len(found)} jobs have ended: the verdicts may still change.")
    return lines
