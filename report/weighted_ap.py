"""COCO's AP out of matches, with a weight for each image: how often it is in the sample.

Every step is that of pycocotools' `COCOeval.accumulate`, in its order and precision, so weights of one give its numbers
bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosskd.spec.results.matches import AREAS, IOUS
from report.matches import Matches

NOTHING = -1.0  # what COCO says where there is nothing to measure
RECALLS = np.linspace(0.0, 1.00, 101)
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
IOU_50, IOU_75 = IOUS.index(0.5), IOUS.index(0.75)
ALL, *SIZES = range(len(AREAS))
_LIMITS = 3  # AR1, AR10, AR100


@dataclass(frozen=True)
class AveragePrecision:
    """-1 stands where there is no ground truth."""

    metrics: dict[str, float]  # METRICS
    per_class: dict[str, float]  # class name -> AP


def average_precision(matches: Matches, weights: NDArray[np.float64] | None = None) -> AveragePrecision:
    """COCO's 12 numbers and AP by class. `weights` [I] are whole numbers, 0 and above; the default is one each."""
    weights = np.ones(len(matches.image_ids)) if weights is None else weights
    shape = (len(matches.classes), len(AREAS))
    precision = np.full((len(IOUS), len(RECALLS), *shape), NOTHING)  # of all detections
    recall = np.full((len(IOUS), *shape, len(matches.max_detections)), NOTHING)
    for label in range(len(matches.classes)):
        rows = matches.rows(label)
        rank = _ranks(matches.images[rows])
        images, counts = matches.truth_of(label)
        positives = weights[images] @ counts  # [4]
        states, weight = matches.states[rows], weights[matches.images[rows]]
        for area in range(len(AREAS)):
            if not positives[area]:
                continue
            right = matches.right[states, area].T  # [10, D']
            wrong = matches.counted[states, area].T & ~right
            for iou in range(len(IOUS)):
                weighed = right[iou] * weight
                found, missed = np.cumsum(weighed), np.cumsum(wrong[iou] * weight)
                precision[iou, :, label, area] = _interpolated(found, missed, positives[area])
                for number, limit in enumerate(matches.max_detections):
                    recall[iou, label, area, number] = weighed[rank < limit].sum() / positives[area]
    return AveragePrecision(
        metrics=_metrics(precision, recall),
        per_class={name: _mean(precision[:, :, label, ALL]) for label, name in enumerate(matches.classes)},
    )


def _ranks(images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each detection among those of its image, in their order."""
    order = np.argsort(images, kind="stable")
    grouped = images[order]
    first = np.flatnonzero(np.diff(grouped, prepend=-1))
    begins = np.repeat(first, np.diff(np.append(first, len(images))))
    ranks = np.empty(len(images), np.int64)
    ranks[order] = np.arange(len(images)) - begins
    return ranks


def _interpolated(found: NDArray[np.float64], wrong: NDArray[np.float64], positives: np.float64) -> NDArray[np.float64]:
    """Precision at `RECALLS`: the best at this recall or a higher one; 0 at recalls that are not reached."""
    precision = found / (wrong + found + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(found / positives, RECALLS, side="left")
    reached = places < len(found)
    values = np.zeros(len(RECALLS))
    values[reached] = best[places[reached]]
    return values


def _metrics(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float]:
    """Of precision [10, 101, K, 4] and recall [10, K, 4, L]."""
    values = [
        *(precision[ious, ..., ALL] for ious in (slice(None), IOU_50, IOU_75)),
        *(precision[..., area] for area in SIZES),
        *(recall[..., ALL, limit] for limit in range(_LIMITS)),
        *(recall[..., area, -1] for area in SIZES),
    ]
    return dict(zip(METRICS, map(_mean, values), strict=True))


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > NOTHING]
    return float(known.mean()) if known.size else NOTHING
