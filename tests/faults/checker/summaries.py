"""What the summaries of metric points must say, reckoned anew from the points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from api.services.history.summaries import WIDTHS
from tests.faults.checker.rows import PointRow, SummaryRow


def summaries(points: Iterable[PointRow]) -> set[SummaryRow]:
    """One for each attempt, width, key and bucket of steps that has a point."""
    buckets: defaultdict[tuple[str, int, str, int], list[PointRow]] = defaultdict(list)
    for point in points:
        for width in WIDTHS:
            buckets[point.attempt_id, width, point.key, point.step // width].append(point)
    return {SummaryRow(*place, *_summed(found)) for place, found in buckets.items()}


def _summed(points: list[PointRow]) -> tuple[int, float | None, float | None, int, int]:
    finite = [point.value for point in points if point.value is not None]
    kinds = 0
    for point in points:
        kinds |= 1 << point.kind - 1 if point.kind else 0
    return len(points), min(finite, default=None), max(finite, default=None), kinds, max(p.step for p in points)
