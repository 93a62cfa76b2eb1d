"""Which detections are right, by COCO's rules: at ten overlaps and for four ranges of area, all images at once.

What pycocotools' `COCOeval.evaluateImg` does image by image and class by class (its formulas, its order, its rules for
equal values) is done here on arrays that hold all of them. A test compares the two, detection by detection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# As pycocotools has them: 0.9, for one, is 0.8999999999999999 there.
OVERLAPS = np.linspace(0.5, 0.95, 10)
RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]], float)  # square pixels, both ends included

_PAIRS = 2**20  # of a detection and a box that are looked at together: 100 MB


@dataclass(frozen=True)
class Truth:
    """G boxes; those of one image and class in the order that decides where overlaps are equal."""

    images: NDArray[np.int64]  # [G] 0..I-1
    labels: NDArray[np.int64]  # [G] 0..K-1
    boxes: NDArray[np.float64]  # [G, 4] x, y, width, height
    areas: NDArray[np.float64]  # [G] square pixels: what decides the range of area
    crowd: NDArray[np.bool_]  # [G] any number of detections may lie in it
    ignored: NDArray[np.bool_]  # [G] neither to be found nor missed
    nameless: NDArray[np.bool_]  # [G] its id is 0, so that pycocotools takes a detection of it for one of nothing


@dataclass(frozen=True)
class Found:
    """D detections; those of one image and class in the order that decides where scores are equal."""

    images: NDArray[np.int64]  # [D] 0..I-1
    labels: NDArray[np.int64]  # [D] 0..K-1
    boxes: NDArray[np.float64]  # [D, 4] x, y, width, height
    scores: NDArray[np.float64]  # [D]


@dataclass(frozen=True)
class Judged:
    """What became of D detections, sorted by class, falling score and image; those past the limit are gone."""

    images: NDArray[np.int64]  # [D]
    scores: NDArray[np.float64]  # [D]
    ranks: NDArray[np.int64]  # [D] 0 for the best of its image and class
    right: NDArray[np.bool_]  # [D, 4, 10] it has found a box that was to be found
    counted: NDArray[np.bool_]  # [D, 4, 10] it is right or wrong
    starts: NDArray[np.int64]  # [K + 1] the detections of class k are rows starts[k]:starts[k + 1]
    truth_labels: NDArray[np.int64]  # [P] pairs of a class and an image that has boxes of it, ascending
    truth_images: NDArray[np.int64]  # [P]
    truth_counts: NDArray[np.int64]  # [P, 4] how many of these boxes are to be found, by area

    def rows(self, label: int) -> slice:
        """Where class `label` has its detections."""
        return slice(int(self.starts[label]), int(self.starts[label + 1]))


class _Pairs(NamedTuple):
    """P pairs of a detection and a box of its image and class that overlap enough, by detection."""

    detections: NDArray[np.int64]  # [P] ascending
    boxes: NDArray[np.int64]  # [P]
    overlaps: NDArray[np.float64]  # [P]


def judge(truth: Truth, found: Found, *, classes: int, images: int, most: int) -> Judged:
    """Match the detections to the boxes of `classes` classes in `images` images.

    By falling score, each detection takes the box of its image and class that it overlaps most, out of those that no
    other has taken; boxes that are ignored are taken by those alone that meet no other. `most` is how many detections
    of an image and a class count, the best ones.
    """
    cells = found.labels * images + found.images
    order = np.lexsort((-found.scores, cells))
    ranks = np.arange(len(order)) - np.searchsorted(cells[order], cells[order])
    order, ranks = order[ranks < most], ranks[ranks < most]
    cells, boxes = cells[order], found.boxes[order]

    own = truth.labels * images + truth.images
    by_cell = np.argsort(own, kind="stable")
    own, truth = own[by_cell], _at(truth, by_cell)
    ignored = truth.ignored[:, None] | _outside(truth.areas)  # [G, 4]

    right = np.zeros((len(order), len(RANGES), len(OVERLAPS)), bool)
    counted = np.repeat(~_outside(boxes[:, 2] * boxes[:, 3])[:, :, None], len(OVERLAPS), axis=2)
    for detections, met in _assigned(_pairs(truth, own, boxes, cells), cells, truth.crowd, ignored):
        some = met >= 0  # [C, 4, 10]
        known = some & ~truth.nameless[met]
        to_find = ~ignored[met, np.arange(len(RANGES))[:, None]]
        counted[detections] = np.where(known, to_find, counted[detections] & (to_find | ~some))
        right[detections] = known & to_find

    last = np.lexsort((ranks, found.images[order], -found.scores[order], found.labels[order]))
    pairs = np.unique(own)
    counts = np.zeros((len(pairs), len(RANGES)), np.int64)
    np.add.at(counts, np.searchsorted(pairs, own), ~ignored)
    return Judged(
        images=found.images[order][last],
        scores=found.scores[order][last],
        ranks=ranks[last],
        right=right[last],
        counted=counted[last],
        starts=np.searchsorted(found.labels[order][last], np.arange(classes + 1)).astype(np.int64),
        truth_labels=pairs // images,
        truth_images=pairs % images,
        truth_counts=counts,
    )


def _at(truth: Truth, rows: NDArray[np.int64]) -> Truth:
    return Truth(**{name: values[rows] for name, values in vars(truth).items()})


def _outside(areas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of areas [N]: in which ranges they do not lie, [N, 4]."""
    outside: NDArray[np.bool_] = (areas[:, None] < RANGES[:, 0]) | (areas[:, None] > RANGES[:, 1])
    return outside


def _pairs(truth: Truth, own: NDArray[np.int64], boxes: NDArray[np.float64], cells: NDArray[np.int64]) -> _Pairs:
    """Of detections with these boxes [D, 4] and cells [D]; truth lies in the cells `own` [G], ascending."""
    starts, stops = np.searchsorted(own, cells), np.searchsorted(own, cells, side="right")
    ends = np.cumsum(stops - starts)
    # Of a network that diverged. What is no number is never less than another, so that after it any box would do.
    broken: NDArray[np.bool_] = ~np.isfinite(boxes.sum(axis=1))
    at, parts = 0, [_Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    while at < len(cells):
        done = int(ends[at - 1]) if at else 0
        stop = max(int(np.searchsorted(ends, done + _PAIRS, side="right")), at + 1)
        counts = (stops - starts)[at:stop]
        detections = np.repeat(np.arange(at, stop), counts)
        others = np.arange(len(detections)) + np.repeat(starts[at:stop] - (ends[at:stop] - counts - done), counts)
        overlaps = _overlaps(boxes[detections], truth.boxes[others], truth.crowd[others])
        near = (overlaps >= OVERLAPS[0]) | broken[detections]
        parts.append(_Pairs(detections[near], others[near], overlaps[near]))
        at = stop
    return _Pairs(*map(np.concatenate, zip(*parts, strict=True)))


def _overlaps(ours: NDArray[np.float64], theirs: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of each pair [P, 4], as `bbIou` of pycocotools; with a crowd, the share of the detection that lies in it."""
    low = np.fmax(ours[:, :2], theirs[:, :2])
    sides = np.fmin(ours[:, 2:] + ours[:, :2], theirs[:, 2:] + theirs[:, :2]) - low
    both, area = sides[:, 0] * sides[:, 1], ours[:, 2] * ours[:, 3]
    whole = np.where(crowd, area, area + theirs[:, 2] * theirs[:, 3] - both)
    apart = (sides <= 0).any(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        result: NDArray[np.float64] = np.where(apart, 0.0, both / whole)
    return result


def _assigned(
    pairs: _Pairs, cells: NDArray[np.int64], crowd: NDArray[np.bool_], ignored: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Detections [C] and which box each takes, [C, 4, 10]; -1: none. Those that are left out take none.

    Step by step: the best detection of every cell, then the second of every cell, and so on.
    """
    detections, first, counts = np.unique(pairs.detections, return_index=True, return_counts=True)
    own = cells[detections]
    turns = np.arange(len(own)) - np.searchsorted(own, own)
    taken = np.zeros((*ignored.shape, len(OVERLAPS)), bool)  # [G, 4, 10]
    by_turn = np.argsort(turns, kind="stable")
    for rows in np.split(by_turn, np.flatnonzero(np.diff(turns[by_turn])) + 1):
        met = _best(pairs, first[rows], counts[rows], crowd, ignored, taken)
        _, areas, overlaps = hit = np.nonzero(met >= 0)
        taken[met[hit], areas, overlaps] = True
        yield detections[rows], met


def _best(
    pairs: _Pairs,
    first: NDArray[np.int64],
    counts: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    taken: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """For C detections with `counts` pairs each, from `first` on: the box [C, 4, 10] that each takes, or -1."""
    met = np.full((len(first), len(RANGES), len(OVERLAPS)), -1)
    for of_ignored in (False, True):  # these come last, and only to those that have met no other
        chosen, best = met.copy(), np.broadcast_to(OVERLAPS, met.shape).copy()
        for place in range(int(counts.max(initial=0))):
            rows = np.flatnonzero(counts > place)
            boxes, overlaps = pairs.boxes[first[rows] + place], pairs.overlaps[first[rows] + place][:, None, None]
            better = ~taken[boxes] | crowd[boxes][:, None, None]
            better &= (ignored[boxes] == of_ignored)[:, :, None] & (met[rows] < 0)
            better &= ~(overlaps < best[rows])  # of equal ones the last
            chosen[rows] = np.where(better, boxes[:, None, None], chosen[rows])
            best[rows] = np.where(better, overlaps, best[rows])
        met = chosen
    return met
