"""Precision and recall out of which detections are right: every step is that of pycocotools' `COCOeval.accumulate`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crosskd.evaluation.matching import OVERLAPS, RANGES, Judged

RECALLS = np.linspace(0.0, 1.0, 101)
NO_GROUND_TRUTH = -1.0  # what COCO says where there is nothing to measure


def accumulate(judged: Judged, limits: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision [10, 101, K, 4] of all detections at `RECALLS`, and recall [10, K, 4, L] of as many as the `limits`.

    Limits are detections of an image and class. -1 stands where there is no box to find.
    """
    classes = len(judged.starts) - 1
    precision = np.full((len(OVERLAPS), len(RECALLS), classes, len(RANGES)), NO_GROUND_TRUTH)
    recall = np.full((len(OVERLAPS), classes, len(RANGES), len(limits)), NO_GROUND_TRUTH)
    positives = np.zeros((classes, len(RANGES)), np.int64)
    np.add.at(positives, judged.truth_labels, judged.truth_counts)
    for label, area in np.argwhere(positives):
        rows = judged.rows(label)
        right, counted = judged.right[rows, area].T, judged.counted[rows, area].T  # [10, D]
        boxes = positives[label, area]
        precision[:, :, label, area] = _interpolated(right, counted & ~right, boxes)
        for place, limit in enumerate(limits):
            recall[:, label, area, place] = np.count_nonzero(right[:, judged.ranks[rows] < limit], axis=1) / boxes
    return precision, recall


def _interpolated(right: NDArray[np.bool_], wrong: NDArray[np.bool_], boxes: np.int64) -> NDArray[np.float64]:
    """Of [10, D]: precision [10, 101], the best at this recall or a higher one; 0 at recalls that are not reached."""
    found, missed = (np.cumsum(kind, axis=1).astype(float) for kind in (right, wrong))
    best = found / (missed + found + np.spacing(1))
    best = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
    values = np.zeros((len(right), len(RECALLS)))
    for row, (recall, precision) in enumerate(zip(found / boxes, best, strict=True)):
        places = np.searchsorted(recall, RECALLS, side="left")
        reached = places < len(recall)
        values[row, reached] = precision[places[reached]]
    return values
