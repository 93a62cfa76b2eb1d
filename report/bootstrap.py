"""How sure the difference between two detectors is: a paired bootstrap over the images.

Images are drawn again and again from those that were measured, as many as there are and with replacement. Every
resample is the same for all detectors, so what is common to them (which images are hard) cancels out of their
difference. B resamples are weights of the images, whole numbers [I, B]; `resampled_ap` computes AP with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from report.matches import Matches
from report.resampled_ap import ROWS, Weights, class_ap

CONFIDENCE = 95.0  # percent
NUMBERS = ("AP", "APs", "APm", "APl", "AP50", "AP75")  # as `resampled_ap.ROWS` has them


@dataclass(frozen=True)
class Resampled:
    """AP of one detector in B resamples; not a number where a resample has nothing to measure."""

    numbers: dict[str, NDArray[np.float64]]  # NUMBERS -> [B]
    per_class: NDArray[np.float64]  # [K, B]


def draw(images: int, resamples: int, seed: int) -> Weights:
    """How often each image is in each resample: [I, B]."""
    generator = np.random.default_rng(seed)
    weights = np.empty((images, resamples), np.uint8)
    for resample in range(resamples):
        chosen = generator.integers(0, images, images)
        # More than 255 times the same of many images is as good as impossible; of few, there are no more.
        weights[:, resample] = np.bincount(chosen, minlength=images).clip(max=255)
    return weights


def resample(matches: Sequence[Matches], weights: Weights, threads: int = 2) -> list[Resampled]:
    """AP of each in every resample. All have the same images, classes and ground truth."""
    work = [(place, label) for place, one in enumerate(matches) for label in range(len(one.classes))]
    work.sort(key=lambda entry: -_size(matches[entry[0]], entry[1]))  # the longest first: no thread is left with one
    tables = [np.full((len(one.classes), ROWS, weights.shape[1]), np.nan) for one in matches]

    def run(entry: tuple[int, int]) -> None:
        place, label = entry
        tables[place][label] = class_ap(matches[place], label, weights)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(run, work):
            pass
    return [_resampled(table) for table in tables]


def _size(matches: Matches, label: int) -> int:
    return int(matches.starts[label + 1] - matches.starts[label])


def _resampled(table: NDArray[np.float64]) -> Resampled:
    """Of [K, ROWS, B]."""
    known = ~np.isnan(table)
    counts = known.sum(axis=0)
    sums = np.where(known, table, 0.0).sum(axis=0)
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return Resampled(dict(zip(NUMBERS, means, strict=True)), table[:, 0])


def interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The middle 95 % of values of which some are not a number; None if all are."""
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    tail = (100 - CONFIDENCE) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)
