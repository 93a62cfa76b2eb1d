"""Reading the evaluations of a job, as one series over all attempts (`series`), without all of their JSON at once.

With thousands of classes an evaluation is a megabyte of JSON, and ten times that in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Text, cast, func, select

from api.database import Session
from api.models import Artifact, Evaluation, Job
from api.services.history.series import step_ranges
from wire import reports as wire
from wire.artifacts import curves_artifact

LONGEST_PAGE = 1000  # evaluations
PAGE_CHARACTERS = 8_000_000  # of the JSON of a page: 800 evaluations of COCO's 80 classes, or 6 of 10,000


class Carried(NamedTuple):
    """An evaluation that a retry has from before its start, and the job that made it."""

    job_id: str
    evaluation: wire.Evaluation


class _Entry(NamedTuple):
    """Where an evaluation lies, and how many characters its JSON has."""

    attempt_id: str
    attempt: int
    model: str
    step: int
    size: int


def page(session: Session, job_id: str, *, since_step: int = 0, limit: int = LONGEST_PAGE) -> wire.EvaluationList:
    """By step; of two of the same model and step, the later attempt's. Whole steps only, and at least one."""
    entries = [entry for entry in _entries(session, job_id) if entry.step >= since_step]
    fitting = _fitting(entries, limit)
    rest = entries[len(fitting) :]
    items = list(_read(session, job_id, fitting))
    return wire.EvaluationList(items=items, has_more=bool(rest), next_step=rest[0].step if rest else None)


def without_classes(session: Session, job_id: str) -> list[wire.Evaluation]:
    """All of them, as `page` orders them, with no numbers of single classes."""
    return list(_read(session, job_id, _entries(session, job_id), classes=False))


def for_report(session: Session, job_id: str) -> list[wire.Evaluation]:
    """All of them; if they are more than a page, only the first, the best and the last of each model with its classes.

    The best is the last that is marked so.
    """
    entries = _entries(session, job_id)
    if sum(entry.size for entry in entries) <= PAGE_CHARACTERS:
        return list(_read(session, job_id, entries))
    rows = list(_read(session, job_id, entries, classes=False))
    shown: list[wire.Evaluation] = []
    for model in {row.model for row in rows}:
        own = [row for row in rows if row.model == model]
        shown += [own[0], *[row for row in own if row.best][-1:], own[-1]]
    whole = {(row.model, row.step): row for row in _with_classes(session, job_id, shown)}
    return [whole.get((row.model, row.step), row) for row in rows]


def best_ap(session: Session, job: Job, step: int) -> float | None:
    """The best student's AP up to `step`, of a retry with what its checkpoint had reached before it."""
    before = job.start["best_ap"] if job.start else None
    students = (row for row in without_classes(session, job.id) if row.model == "student" and row.step <= step)
    found = [before, *(row.metrics.AP for row in students)]
    return max((ap for ap in found if ap is not None and ap >= 0), default=None)


def carried(session: Session, job: Job) -> dict[wire.Model, Carried]:
    """Of a retry, what the checkpoint that it starts from had reached: the best student, and the teacher.

    If the retry gets no better, that student is the one that it delivers. Jobs that were deleted tell nothing.
    """
    found: dict[wire.Model, Carried] = {}
    start = job.start
    while start is not None and (former := session.get(Job, start["job"])) is not None:
        rows = [row for row in without_classes(session, former.id) if row.step <= start["step"]]
        of_former = {row.model: Carried(former.id, row) for row in rows if row.best or row.model == "teacher"}
        found = of_former | found  # a later job's counts
        start = former.start
    return {
        model: Carried(one.job_id, whole)
        for model, one in found.items()
        for whole in _with_classes(session, one.job_id, [one.evaluation])
    }


def _with_classes(session: Session, job_id: str, rows: Iterable[wire.Evaluation]) -> Iterator[wire.Evaluation]:
    wanted = {(row.model, row.step) for row in rows}
    entries = [entry for entry in _entries(session, job_id) if (entry.model, entry.step) in wanted]
    return _read(session, job_id, entries)


def _entries(session: Session, job_id: str) -> list[_Entry]:
    """Of all evaluations that count, by step and model. Raises `NotFound` if there is no such job."""
    found: dict[tuple[int, str], _Entry] = {}
    for part in reversed(step_ranges(session, job_id)):
        size = func.length(cast(Evaluation.report, Text))
        query = select(Evaluation.model, Evaluation.step, size)
        # Up to `part.last`, but from 0: a resumed attempt may evaluate the teacher again, at step 0.
        query = query.where(Evaluation.attempt_id == part.attempt_id, Evaluation.step <= part.last)
        for model, step, characters in session.execute(query):
            found.setdefault((step, model), _Entry(part.attempt_id, part.number, model, step, characters))
    return [found[key] for key in sorted(found)]


def _fitting(entries: Sequence[_Entry], limit: int) -> list[_Entry]:
    """As many whole steps as a page holds."""
    taken: list[_Entry] = []
    for _, group in groupby(entries, key=lambda entry: entry.step):
        more = [*taken, *group]
        if taken and (len(more) > limit or sum(entry.size for entry in more) > PAGE_CHARACTERS):
            break
        taken = more
    return taken


def _read(
    session: Session, job_id: str, entries: Sequence[_Entry], *, classes: bool = True
) -> Iterator[wire.Evaluation]:
    """The evaluations, in the order of `entries`, which is by step; a page of JSON is in memory at once."""
    curves = frozenset(
        session.scalars(select(Artifact.name).where(Artifact.job_id == job_id, Artifact.kind == "curves"))
    )
    less: dict[str, Any] = {} if classes else {"per_class": {}, "class_metrics": {}}
    while some := _fitting(entries, LONGEST_PAGE):
        entries = entries[len(some) :]
        found = {}
        for attempt in {entry.attempt_id for entry in some}:
            steps = {entry.step for entry in some if entry.attempt_id == attempt}
            query = select(Evaluation.model, Evaluation.step, Evaluation.at, Evaluation.report)
            query = query.where(Evaluation.attempt_id == attempt, Evaluation.step.in_(steps))
            for row in session.execute(query):
                found[attempt, row.model, row.step] = {**row.report, **less, "at": row.at}
        for entry in some:
            if (report := found.pop((entry.attempt_id, entry.model, entry.step), None)) is None:
                continue  # its job has been deleted meanwhile
            name = curves_artifact(entry.model, entry.step)
            link = f"/jobs/{job_id}/evaluations/{entry.step}/curves?model={entry.model}" if name in curves else None
            yield wire.Evaluation.model_validate({**report, "attempt": entry.attempt, "curves": link})
