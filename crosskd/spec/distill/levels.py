"""Which level of one memory stands for which of another, by their strides. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

FARTHEST = 2  # times as coarse or as fine: beyond that next to nothing of the scale is left


def nearest_levels(ours: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """For each stride of `theirs` the place in `ours` of the nearest, by their ratio; of two as near the finer."""
    return [min(range(len(ours)), key=lambda place: _apart(ours[place], stride)) for stride in theirs]


def too_far(ours: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """The strides of `theirs` for which none of `ours` is near enough to be resampled."""
    nearest = nearest_levels(ours, theirs)
    return [s for s, place in zip(theirs, nearest, strict=True) if _apart(ours[place], s) > FARTHEST]


def _apart(one: int, other: int) -> float:
    return max(one, other) / min(one, other)
