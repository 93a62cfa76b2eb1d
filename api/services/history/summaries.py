"""Summaries of metric points, kept as the points come in: what `downsampling` reads in their place.

Each batch adds its points to one summary per key and bucket of steps, for buckets of 64 and of 1,024 steps: a million
points of a key are then about a thousand rows. Only points that were really stored are added, in the batch's own
transaction, so a summary always says what its points would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import case, or_, select

from api.database import Session
from api.models import MetricPoint, MetricSummary

WIDTHS = (64, 1024)  # steps; each a multiple of the one before


def add(session: Session, batch_id: dict[str, Any], rows: Sequence[dict[str, Any]], stored: int) -> None:
    """Take in the rows of a batch, of which `stored` were new. `batch_id` names the batch."""
    if stored < len(rows):  # the others repeat a step and key that was reported before: they count for nothing
        rows = _stored(session, batch_id, rows)
    if found := [row for width in WIDTHS for row in _summed(batch_id["attempt_id"], width, rows)]:
        session.insert_many(MetricSummary, found, _merged)


def _stored(session: Session, batch_id: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    steps = [row["step"] for row in rows]
    query = (
        select(MetricPoint.step, MetricPoint.key, MetricPoint.value, MetricPoint.kind)
        .where(MetricPoint.attempt_id == batch_id["attempt_id"], MetricPoint.sequence == batch_id["sequence"])
        .where(MetricPoint.step >= min(steps), MetricPoint.step <= max(steps))
    )
    return [row._asdict() for row in session.execute(query)]


def _summed(attempt_id: str, width: int, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    found: dict[tuple[str, int], list[Any]] = {}
    for row in rows:
        step, value, kind = row["step"], row["value"], row["kind"]
        place = (row["key"], step // width)
        new = [1, value, value, 1 << kind >> 1, step]
        old = found.get(place)
        found[place] = new if old is None else joined(old, new)
    for (key, bucket), (points, low, high, kinds, last_step) in found.items():
        values = {"points": points, "low": low, "high": high, "kinds": kinds, "last_step": last_step}
        yield {"attempt_id": attempt_id, "width": width, "key": key, "bucket": bucket, **values}


def joined(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    """Two summaries as one: points, low, high, kinds, last step."""
    low = b[1] if a[1] is None or (b[1] is not None and b[1] < a[1]) else a[1]
    high = b[2] if a[2] is None or (b[2] is not None and b[2] > a[2]) else a[2]
    return [a[0] + b[0], low, high, a[3] | b[3], max(a[4], b[4])]


def _merged(new: Any) -> dict[str, Any]:
    """The same, in the database."""
    old = MetricSummary
    return {
        "points": old.points + new.points,
        "low": case((or_(old.low.is_(None), new.low < old.low), new.low), else_=old.low),
        "high": case((or_(old.high.is_(None), new.high > old.high), new.high), else_=old.high),
        "kinds": old.kinds.bitwise_or(new.kinds),
        "last_step": case((new.last_step > old.last_step, new.last_step), else_=old.last_step),
    }
