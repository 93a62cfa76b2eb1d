"""A whole series in a bounded number of buckets: count, min, max and last of each, so that no spike is lost.

Which steps of an attempt count, a later attempt decides (`series.step_ranges`). What is read are summaries as wide as
the answer allows; a bucket that is cut by the end of a range is put together from narrower ones, and at last from
points. However long the series is, a few thousand rows are read for a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, and_, case, cast, func, select

from api.database import Session
from api.models import MetricPoint, MetricSummary
from api.services.history import values
from api.services.history.series import StepRange, step_ranges
from api.services.history.summaries import WIDTHS, joined
from wire import reports as wire

MAX_BUCKETS = 4000  # of an answer, over all keys
_COARSEST = 4  # a wider summary is read where it still gives a quarter of the buckets that were asked for


@dataclass(frozen=True)
class _Wanted:
    keys: Sequence[str]
    base: int  # the widest summaries to read; 1: points
    width: int  # of a bucket of the answer: a multiple of `base`


class _Bucket(NamedTuple):
    summary: list[Any]  # as `joined` has it
    value: float | None  # of the last step
    kind: int


def read(
    session: Session,
    job_id: str,
    *,
    keys: Sequence[str],
    since_step: int,
    until_step: int,
    buckets: int,
    attempt: int | None,
) -> wire.MetricBuckets:
    """The whole series, or the steps `since_step` … `until_step` of it, in at most so many buckets per key.

    There may be fewer, down to a quarter, and there are at most `MAX_BUCKETS` over all keys (but one for each).
    Raises as `step_ranges` does.
    """
    clipped = (
        part._replace(first=max(part.first, since_step), last=min(part.last, until_step))
        for part in step_ranges(session, job_id, attempt)
    )
    parts = [part for part in (_reported(session, part) for part in clipped) if part is not None]
    if not parts:
        return wire.MetricBuckets(width=1, items=[])
    number = len(set(keys) or _keys(session, parts))
    wanted = _wanted(keys, parts[0].first, parts[-1].last, max(1, min(buckets, MAX_BUCKETS // max(number, 1))))
    found: dict[tuple[int, str], _Bucket] = {}
    for part in parts:
        for place, bucket in _of_range(session, part, wanted):
            found[place] = _later(found.get(place), bucket)
    items = [_as_wire(place, found[place], wanted.width) for place in sorted(found)]
    return wire.MetricBuckets(width=wanted.width, items=items)


def _reported(session: Session, part: StepRange) -> StepRange | None:
    """The range from its first to its last point; None if it has none."""
    # A query for each: SQLite looks at one end of an index, not at both.
    first, last = (session.scalar(select(end(MetricPoint.step)).where(*_between(part))) for end in (func.min, func.max))
    return None if first is None or last is None else part._replace(first=first, last=last)


def _between(part: StepRange) -> list[Any]:
    return [MetricPoint.attempt_id == part.attempt_id, MetricPoint.step >= part.first, MetricPoint.step <= part.last]


def _keys(session: Session, parts: Sequence[StepRange]) -> set[str]:
    """Of the attempts, whether or not they occur in these very steps."""
    attempts = [part.attempt_id for part in parts]
    query = select(MetricSummary.key).where(MetricSummary.attempt_id.in_(attempts), MetricSummary.width == WIDTHS[-1])
    return set(session.scalars(query.distinct()))


def _wanted(keys: Sequence[str], first: int, last: int, number: int) -> _Wanted:
    fitting = (width for width in reversed(WIDTHS) if (last - first + 1) * _COARSEST >= width * number)
    base = next(fitting, 1)
    width = base
    while last // width - first // width + 1 > number:
        least = -(-(last // base - first // base + 1) // number)  # as many bases in a bucket, or one more
        width = max(width + base, least * base)
    return _Wanted(keys, base, width)


def _of_range(session: Session, part: StepRange, wanted: _Wanted) -> Iterator[tuple[tuple[int, str], _Bucket]]:
    for base, piece in _pieces(part, [width for width in reversed(WIDTHS) if width <= wanted.base]):
        query = _points(piece, wanted) if base == 1 else _summaries(piece, base, wanted)
        for row in session.execute(query):
            kinds = row.nans + 2 * row.infinities + 4 * row.negatives
            summary = [row.points, row.low, row.high, kinds, row.last_step]
            yield (row.place, row.key), _Bucket(summary, row.value, row.kind)


def _pieces(part: StepRange, bases: Sequence[int]) -> Iterator[tuple[int, StepRange]]:
    """The range cut into whole buckets of the widest base, then at its ends of narrower ones, then of points."""
    if part.first > part.last:
        return
    if not bases:
        yield 1, part
        return
    base = bases[0]
    begin, end = -(-part.first // base) * base, (part.last + 1) // base * base
    if begin >= end:
        yield from _pieces(part, bases[1:])
        return
    yield from _pieces(part._replace(last=begin - 1), bases[1:])
    yield base, part._replace(first=begin, last=end - 1)
    yield from _pieces(part._replace(first=end), bases[1:])


def _summaries(part: StepRange, base: int, wanted: _Wanted) -> Select[*tuple[Any, ...]]:
    """Whole buckets from `part.first`, with the value of the last step of each bucket of the answer."""
    kept = MetricSummary
    place = kept.bucket // (wanted.width // base)
    query = (
        select(
            kept.key.label("key"),
            place.label("place"),
            cast(func.sum(kept.points), BigInteger).label("points"),
            func.min(kept.low).label("low"),
            func.max(kept.high).label("high"),
            *(
                func.max(case((kept.kinds.bitwise_and(bit) != 0, 1), else_=0)).label(name)
                for bit, name in ((1, "nans"), (2, "infinities"), (4, "negatives"))
            ),
            func.max(kept.last_step).label("last_step"),
        )
        .where(kept.attempt_id == part.attempt_id, kept.width == base)
        .where(kept.bucket >= part.first // base, kept.bucket <= part.last // base)
    )
    if wanted.keys:
        query = query.where(kept.key.in_(wanted.keys))
    return _with_last(query.group_by(kept.key, place), part)


def _points(part: StepRange, wanted: _Wanted) -> Select[*tuple[Any, ...]]:
    point = MetricPoint
    place = point.step // wanted.width
    query = select(
        point.key.label("key"),
        place.label("place"),
        func.count().label("points"),
        func.min(point.value).label("low"),
        func.max(point.value).label("high"),
        *(
            func.max(case((point.kind == kind, 1), else_=0)).label(name)
            for kind, name in ((1, "nans"), (2, "infinities"), (3, "negatives"))
        ),
        func.max(point.step).label("last_step"),
    ).where(*_between(part))
    if wanted.keys:
        query = query.where(point.key.in_(wanted.keys))
    return _with_last(query.group_by(point.key, place), part)


def _with_last(query: Select[*tuple[Any, ...]], part: StepRange) -> Select[*tuple[Any, ...]]:
    found = query.cte("found")
    of_it = and_(
        MetricPoint.attempt_id == part.attempt_id,
        MetricPoint.step == found.c.last_step,
        MetricPoint.key == found.c.key,
    )
    return select(found, MetricPoint.value, MetricPoint.kind).join(MetricPoint, of_it)


def _later(old: _Bucket | None, new: _Bucket) -> _Bucket:
    """Of pieces one behind the other; whichever has the later step gives the last value."""
    if old is None:
        return new
    last = new if new.summary[4] > old.summary[4] else old
    return _Bucket(joined(old.summary, new.summary), last.value, last.kind)


def _as_wire(place: tuple[int, str], bucket: _Bucket, width: int) -> wire.MetricBucket:
    points, low, high, kinds, last_step = bucket.summary
    return wire.MetricBucket.model_construct(
        key=place[1],
        step=place[0] * width,
        points=points,
        min=low,
        max=high,
        last=values.as_wire(bucket.value, bucket.kind),
        last_step=last_step,
        non_finite=values.non_finite(kinds),
    )
