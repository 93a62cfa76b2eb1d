"""How numbers are spread, and the bounds by which COCO calls objects small, medium and large."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

SMALL, MEDIUM = 32**2, 96**2  # pixels of area: COCO's bounds of small and of medium objects
LOW, HIGH = 0.05, 0.95  # quantiles that stand for the smallest and the largest: a few odd boxes decide nothing


class Quantiles(BaseModel):
    """How values are spread: by nearest rank, so that each is one of them."""

    least: float = Field(ge=0, description="The smallest of them.")
    low: float = Field(ge=0, description="Five in a hundred are at most this.")
    middle: float = Field(ge=0, description="The median of them.")
    high: float = Field(ge=0, description="Five in a hundred are above this.")
    most: float = Field(ge=0, description="The largest of them.")


def quantiles(values: Sequence[float]) -> Quantiles:
    """Of at least one value."""
    ordered = sorted(values)
    low, middle, high = (quantile(ordered, share) for share in (LOW, 0.5, HIGH))
    return Quantiles(least=ordered[0], low=low, middle=middle, high=high, most=ordered[-1])


def quantile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank, of ascending values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
