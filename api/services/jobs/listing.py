"""A page of jobs that costs as much among a million as among a hundred, wherever it lies.

Jobs are found by ranges of indexes that are in the order of ids: of the label, of the status, of owner and status, of
the name, of the kind, and of the ids themselves. A single filter is such a range (or one for each status, merged). Of
several, the one with the fewest jobs is gone through, and the others are held against its jobs; which has the fewest is
counted only up to `_FEW`. A search alone costs more the more jobs there are: it reads their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import ColumnElement, Select, exists, func, select, union_all
from sqlalchemy.orm import load_only

from api.database import Session
from api.errors import invalid_query
from api.models import ID, Job, JobLabel, id_range
from api.services.jobs.store import summary
from wire import jobs as wire

_FEW = 1000
_SUMMARY = [getattr(Job, name) for name in wire.JobSummary.model_fields]


@dataclass(frozen=True)
class Wanted:
    """Which jobs: any of the `statuses`, any of the `kinds`; all else that is given."""

    statuses: Sequence[str] = ()
    labels: Sequence[str] = ()  # `key=value`
    owner: str | None = None
    name: str | None = None
    kinds: Sequence[str] = ()
    search: str | None = None  # part of the name, or the beginning of the id
    prefix: str | None = None  # hex digits with which the id begins


@dataclass(frozen=True)
class _Filter:
    """`ranges`: ids of the jobs that fit, each in an index's own order. `fits`: the same as a condition on a job."""

    ranges: list[Select[str]]
    fits: ColumnElement[bool]

    def newest(self, number: int) -> Select[str]:
        """So many ids, or all if there are fewer."""
        parts = [ids.limit(number).subquery() for ids in self.ranges]
        merged = union_all(*(select(part.c.id) for part in parts)).subquery()
        return select(merged.c.id).order_by(merged.c.id.desc()).limit(number)


def page(session: Session, wanted: Wanted, *, after: str | None, limit: int) -> wire.JobPage:
    """Newest first, from below the id `after`."""
    below = None if after is None else _checked(after)
    filters = [_of_label(label, below) for label in dict.fromkeys(wanted.labels)]
    if wanted.owner is not None or wanted.statuses:
        filters.append(_of_state(wanted.owner, wanted.statuses, below))
    if wanted.name is not None:
        filters.append(_of_jobs(Job.name == wanted.name, below))
    if kinds := list(dict.fromkeys(wanted.kinds)):
        each = [_of_jobs(Job.kind == kind, below).ranges[0] for kind in kinds]
        filters.append(_Filter(each, Job.kind.in_(kinds)))
    if wanted.search is not None:  # no index has parts of names: it goes through all of them
        begins = Job.id.startswith(wanted.search.lower(), autoescape=True)
        filters.append(_of_jobs(Job.name.icontains(wanted.search, autoescape=True) | begins, below))
    if wanted.prefix is not None:
        filters.append(_of_jobs(Job.id.between(*id_range(wanted.prefix)), below))
    query = select(Job).options(load_only(*_SUMMARY)).order_by(Job.id.desc()).limit(limit + 1)
    if not filters and below is not None:
        query = query.where(Job.id < below)
    elif len(filters) == 1:
        query = query.where(Job.id.in_(filters[0].newest(limit + 1)))
    elif filters:
        query = _narrowed(session, query, filters, below)
    found = session.scalars(query).all()
    return wire.JobPage(items=[summary(job) for job in found[:limit]], has_more=len(found) > limit)


def _narrowed(session: Session, query: Select[Job], filters: Sequence[_Filter], below: str | None) -> Select[Job]:
    counts = [session.scalar(select(func.count()).select_from(each.newest(_FEW).subquery())) or 0 for each in filters]
    least = counts.index(min(counts))
    if counts[least] < _FEW:
        query = query.where(*(each.fits for place, each in enumerate(filters) if place != least))
        return query.where(Job.id.in_(filters[least].newest(_FEW)))
    # All of them have many: where they are independent, a page of jobs that fit all is soon found from the newest on.
    query = query.where(*(each.fits for each in filters))
    walked = next((each.ranges[0] for each in filters if len(each.ranges) == 1), None)
    if walked is None:  # each filter is of several ranges, none of which has all of its jobs
        return query if below is None else query.where(Job.id < below)
    ids = walked.order_by(None).subquery()
    return query.join(ids, ids.c.id == Job.id).order_by(None).order_by(ids.c.id.desc())


def _of_label(label: str, below: str | None) -> _Filter:
    key, value = _pair(label)
    own = (JobLabel.key == key, JobLabel.value == value)
    ids = select(JobLabel.job_id.label("id")).where(*own).order_by(JobLabel.job_id.desc())
    if below is not None:
        ids = ids.where(JobLabel.job_id < below)
    return _Filter([ids], exists().where(JobLabel.job_id == Job.id, *own))


def _of_jobs(fits: ColumnElement[bool], below: str | None) -> _Filter:
    """A condition on jobs that an index has in the order of ids, or that bounds the ids themselves."""
    ids = select(Job.id).where(fits).order_by(Job.id.desc())
    return _Filter([ids if below is None else ids.where(Job.id < below)], fits)


def _of_state(owner: str | None, statuses: Sequence[str], below: str | None) -> _Filter:
    ranges = []
    for status in dict.fromkeys(statuses or get_args(wire.Status)):
        ids = select(Job.id).where(Job.status == status).order_by(Job.id.desc())
        ids = ids if owner is None else ids.where(Job.owner == owner)
        ranges.append(ids if below is None else ids.where(Job.id < below))
    conditions: list[Any] = [Job.status.in_(statuses)] if statuses else []
    if owner is not None:
        conditions.append(Job.owner == owner)
    return _Filter(ranges, conditions[0] if len(conditions) == 1 else conditions[0] & conditions[1])


def _checked(after: str) -> str:
    if not ID.fullmatch(after):
        raise invalid_query("after", "is no job's id", "Give the id of the last job of the page before.")
    return after


def _pair(label: str) -> tuple[str, str]:
    key, equals, value = label.partition("=")
    if not equals or not key or "\0" in label:
        raise invalid_query("label", f"{label!r} is no key=value", "Write label=KEY=VALUE; repeat it for several.")
    return key, value
