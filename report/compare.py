"""A comparison of detectors on the same images, as a process of its own: it may take seconds and hundreds of megabytes.

`python -m report.compare SECONDS` reads a request (JSON) from its standard input and writes an `Answer` to its standard
output. The files of matches are open descriptors. Its time and memory are bounded, so that no file can stop the API.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from report.bootstrap import CONFIDENCE, NUMBERS, Resampled, draw, interval, resample
from report.matches import BrokenMatches, Matches, read_matches
from report.weighted_ap import NOTHING, AveragePrecision, average_precision

MAX_MEMORY = 2 * 2**30  # bytes of address space
THREADS = 2


class Request(TypedDict):
    """`files` are descriptors, the baseline's first."""

    files: list[int]
    resamples: int
    seed: int


class Difference(TypedDict):
    """`resamples`: in how many there was something to measure."""

    value: float
    low: float
    high: float
    resamples: int


class Compared(TypedDict):
    """The numbers of one, and how they differ from the baseline's; None: nothing is measured there."""

    metrics: dict[str, float]
    per_class: dict[str, float]
    numbers: dict[str, Difference | None]
    classes: dict[str, Difference | None]


class Answer(TypedDict):
    """`faults`: which file (its place) and what is wrong with it; without any, all else is there."""

    faults: list[tuple[int, str]]
    images: int
    confidence: float  # of the intervals, in percent
    compared: list[Compared]


def compare(contents: Sequence[bytes], resamples: int, seed: int) -> Answer:
    """Of files of matches, the baseline's first."""
    matches: list[Matches] = []
    faults: list[tuple[int, str]] = []
    for place, content in enumerate(contents):
        try:
            matches.append(read_matches(content))
        except BrokenMatches as error:
            faults.append((place, f"its matches cannot be read: {error}"))
    if not faults:
        faults = [(place, what) for place, one in enumerate(matches) if place for what in differing(matches[0], one)]
    if faults:
        return Answer(faults=faults, images=0, confidence=CONFIDENCE, compared=[])
    images = len(matches[0].image_ids)
    with ThreadPoolExecutor(THREADS) as pool:
        plain = list(pool.map(average_precision, matches))
    found = resample(matches, draw(images, resamples, seed), THREADS)
    compared = [
        _compared(plain[0], found[0], numbers, resampled, matches[0].classes)
        for numbers, resampled in zip(plain, found, strict=True)
    ]
    return Answer(faults=[], images=images, confidence=CONFIDENCE, compared=compared)


def differing(baseline: Matches, other: Matches) -> list[str]:
    """In what the other was not measured as the baseline was."""
    found: list[str] = []
    ours, theirs = set(baseline.image_ids.tolist()), set(other.image_ids.tolist())
    if ours != theirs:
        counts = f"it was measured on {len(theirs)}, the baseline on {len(ours)}"
        found.append(f"images: {counts}, and {len(ours & theirs)} are the same")
    elif not np.array_equal(baseline.image_ids, other.image_ids):
        found.append("images: they stand in another order in its annotation file")
    if set(baseline.classes) != set(other.classes):
        found.append(f"classes: {_classes(baseline.classes, other.classes)}")
    elif baseline.classes != other.classes:
        found.append("classes: they are in another order")
    if baseline.as_is != other.as_is:
        found.append(f"ground truth: only {'the baseline' if baseline.as_is else 'it'} was measured `as_is`")
    elif not found and _truth(baseline) != _truth(other):
        found.append("ground truth: the boxes of the images are others")
    if baseline.max_detections != other.max_detections:
        ours_most, theirs_most = baseline.max_detections[-1], other.max_detections[-1]
        found.append(f"detections an image: AP counts {theirs_most}, the baseline's counts {ours_most}")
    return found


def _truth(matches: Matches) -> tuple[str, bytes, bytes, bytes]:
    """Its digest, and what is computed with: a file may say one thing and hold another."""
    order = np.lexsort((matches.truth_images, matches.truth_classes))
    parts = (matches.truth_classes, matches.truth_images, matches.truth_counts)
    classes, images, counts = (part[order].tobytes() for part in parts)
    return matches.truth_sha256, classes, images, counts


def _classes(ours: Sequence[str], theirs: Sequence[str]) -> str:
    parts = []
    for whose, names in (("it", set(theirs) - set(ours)), ("the baseline", set(ours) - set(theirs))):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            parts.append(f"only {whose} has {', '.join(repr(name[:100]) for name in sorted(names)[:5])}{more}")
    return "; ".join(parts)


def _compared(
    base: AveragePrecision,
    base_found: Resampled,
    own: AveragePrecision,
    own_found: Resampled,
    classes: Sequence[str],
) -> Compared:
    numbers = {
        name: _difference(base.metrics[name], own.metrics[name], own_found.numbers[name] - base_found.numbers[name])
        for name in sorted(NUMBERS, key=list(base.metrics).index)
    }
    by_class = {
        name: _difference(
            base.per_class[name], own.per_class[name], own_found.per_class[label] - base_found.per_class[label]
        )
        for label, name in enumerate(classes)
    }
    return Compared(metrics=own.metrics, per_class=own.per_class, numbers=numbers, classes=by_class)


def _difference(base: float, own: float, resampled: NDArray[np.float64]) -> Difference | None:
    bounds = interval(resampled)
    if bounds is None or NOTHING in (base, own):
        return None
    measured = int(np.count_nonzero(~np.isnan(resampled)))
    return Difference(value=own - base, low=bounds[0], high=bounds[1], resamples=measured)


def main(seconds: str) -> None:
    # Belt and braces: the API kills what is too slow; these hold when the API itself is gone.
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    cpu = (math.ceil(float(seconds)) + 1) * THREADS
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    os.nice(5)
    request: Request = json.load(sys.stdin)
    contents = []
    for descriptor in request["files"]:
        with open(descriptor, "rb", closefd=False) as file:
            file.seek(0)
            contents.append(file.read())
    json.dump(compare(contents, request["resamples"], request["seed"]), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
