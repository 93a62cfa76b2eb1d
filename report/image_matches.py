"""Which boxes of images were found and which detections are right, at IoU 0.5, as COCO's evaluation matches them.

Files of matches say which detections are right, but neither where they are nor what they have found. A test holds the
two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosskd.spec.results.detections import IOU, best_score

_PAIRS = 2**20  # of a detection and a box that are looked at together: 100 MB


@dataclass(frozen=True)
class Truth:
    """G boxes, grouped by image. What is `ignored` (a crowd, too) is neither to be found nor missed."""

    images: NDArray[np.int64]  # [G] 0..I-1, ascending
    labels: NDArray[np.int64]  # [G] 0..K-1
    boxes: NDArray[np.float64]  # [G, 4] x, y, width, height
    ignored: NDArray[np.bool_]  # [G]
    crowd: NDArray[np.bool_]  # [G]


@dataclass(frozen=True)
class Found:
    """D detections, in the order of their file."""

    images: NDArray[np.int64]  # [D] 0..I-1
    labels: NDArray[np.int64]  # [D] 0..K-1
    boxes: NDArray[np.float64]  # [D, 4] x, y, width, height
    scores: NDArray[np.float64]  # [D]

    def at(self, rows: NDArray[np.int64]) -> Found:
        """Those of the rows, in their order."""
        return Found(self.images[rows], self.labels[rows], self.boxes[rows], self.scores[rows])


@dataclass(frozen=True)
class Matched:
    """What became of detections, sorted by image and falling score; those past the limit of an image are gone."""

    found: Found
    truth: NDArray[np.int64]  # [D] the box that it has found; -1: none
    right: NDArray[np.bool_]  # [D] it has found a box that was to be found
    counted: NDArray[np.bool_]  # [D] it is right or wrong: it has not met an ignored box
    score: float | None  # at and above which F1 over all classes is highest; None: nothing is right


class _Pair(NamedTuple):
    """A detection and a box of its image and class that overlap enough."""

    detection: int
    box: int
    iou: float


def match(truth: Truth, found: Found, most: int) -> Matched:
    """Match as COCO does: by falling score, each detection to the free box that it overlaps most, by IoU 0.5 or more.

    `most` is how many detections of an image and a class count. Boxes that are ignored are met only by detections that
    meet no other; a crowd is met by any number.
    """
    classes = int(max(truth.labels.max(initial=0), found.labels.max(initial=0))) + 1
    keys = found.images * classes + found.labels
    order = np.lexsort((np.arange(len(keys)), -found.scores, keys))
    first = np.searchsorted(keys[order], keys[order])
    order = order[np.arange(len(order)) - first < most]
    found, keys = found.at(order), keys[order]
    own = truth.images * classes + truth.labels
    boxes = np.lexsort((np.arange(len(own)), truth.ignored, own))  # those that count first, in the file's order
    met = _assign(_pairs(truth, boxes, own[boxes], found, keys), len(keys), truth)
    ignored = np.append(truth.ignored, False)[met]  # the last: of none
    right, counted = (met >= 0) & ~ignored, ~ignored
    score = _best_score(found.scores, right, counted, int(np.count_nonzero(~truth.ignored)))
    by_image = np.lexsort((np.arange(len(keys)), -found.scores, found.images))
    return Matched(found.at(by_image), met[by_image], right[by_image], counted[by_image], score)


def _best_score(
    scores: NDArray[np.float64], right: NDArray[np.bool_], counted: NDArray[np.bool_], boxes: int
) -> float | None:
    scores, right = scores[counted], right[counted]
    order = np.argsort(-scores, kind="stable")
    return best_score(scores[order].tolist(), right[order].tolist(), boxes)


def _pairs(
    truth: Truth, boxes: NDArray[np.int64], own: NDArray[np.int64], found: Found, keys: NDArray[np.int64]
) -> Iterator[_Pair]:
    """By detection; the boxes of each in the order of `boxes`, whose keys are `own`."""
    starts, stops = np.searchsorted(own, keys), np.searchsorted(own, keys, side="right")
    ends = np.cumsum(stops - starts)
    at = 0
    while at < len(keys):
        done = int(ends[at - 1]) if at else 0
        stop = max(int(np.searchsorted(ends, done + _PAIRS, side="right")), at + 1)
        counts = (stops - starts)[at:stop]
        detections = np.repeat(np.arange(at, stop), counts)
        places = np.arange(len(detections)) - np.repeat(ends[at:stop] - counts - done, counts)
        others = boxes[np.repeat(starts[at:stop], counts) + places]
        ious = _ious(found.boxes[detections], truth.boxes[others], truth.crowd[others])
        near = ious >= IOU
        for pair in zip(detections[near].tolist(), others[near].tolist(), ious[near].tolist(), strict=True):
            yield _Pair(*pair)
        at = stop


def _ious(ours: NDArray[np.float64], theirs: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each pair [P, 4]; with a crowd, the share of the detection that lies in it."""
    high = np.minimum(ours[:, :2] + ours[:, 2:], theirs[:, :2] + theirs[:, 2:])
    sides = np.maximum(high - np.maximum(ours[:, :2], theirs[:, :2]), 0)
    both, area = sides[:, 0] * sides[:, 1], ours[:, 2] * ours[:, 3]
    whole = np.where(crowd, area, area + theirs[:, 2] * theirs[:, 3] - both)
    result: NDArray[np.float64] = np.divide(both, whole, out=np.zeros_like(both), where=whole > 0)
    return result


def _assign(pairs: Iterator[_Pair], detections: int, truth: Truth) -> NDArray[np.int64]:
    """The box of each detection, or -1, as the loops of `COCOeval.evaluateImg` choose it."""
    met = np.full(detections, -1, np.int64)
    ignored, crowd = truth.ignored.tolist(), truth.crowd.tolist()
    taken = bytearray(len(ignored))
    current, chosen, best = -1, -1, IOU

    def close() -> None:
        if chosen >= 0:
            met[current] = chosen
            taken[chosen] = 1

    for detection, box, iou in pairs:
        if detection != current:
            close()
            current, chosen, best = detection, -1, IOU
        if taken[box] and not crowd[box]:
            continue
        if chosen >= 0 and ignored[box] and not ignored[chosen]:
            continue
        if iou >= best:
            chosen, best = box, iou
    close()
    return met
