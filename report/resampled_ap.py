"""AP of a class in many resamples at once: the weight of an image says how often a resample has it.

The sums are those of COCO's evaluation, as `weighted_ap` has them, made cheap by facts about them:

- Precision falls at a wrong detection. So the best precision at a recall or above is found at a right one, and all that
  is needed of the wrong ones is their weight between two right ones.
- Recall rises at right detections alone. So the mean over COCO's 101 recalls is a sum over the right ones: how many
  recalls are reached there, times how much the best precision falls after it.
- Sums of weights are whole numbers, which single precision holds exactly up to 2^24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosskd.spec.results.matches import AREAS, IOUS
from report.matches import Matches
from report.weighted_ap import ALL, IOU_50, IOU_75, RECALLS

Weights = NDArray[np.uint8]  # [I, B]
Floats = NDArray[np.float32]

ROWS = len(AREAS) + 2  # AP by area, then AP50 and AP75
_BLOCK = 2**20  # numbers of an array at once: 4 MB
_NARROWEST = 250  # resamples at once, however many detections there are
_IMAGES = 2**12  # images at once: their weights are converted
_CHUNK = 2**16  # numbers that stay in a core's cache
# Recalls that a fraction equal to them does not reach: as floating-point numbers they are a little too high.
_TOO_HIGH = np.flatnonzero(np.arange(101) / 100 < RECALLS)
_TINY = np.float32(1e-30)  # vanishes beside any weight; where there is none, it makes 0 of 0 a precision of 0


def class_ap(matches: Matches, label: int, weights: Weights) -> NDArray[np.float64]:
    """[ROWS, B] of a class; not a number where a resample has no box of it."""
    table = np.full((ROWS, weights.shape[1]), np.nan)
    images, counts = matches.truth_of(label)
    rows = matches.rows(label)
    for area in range(len(AREAS)):
        some = counts[:, area] > 0
        if not some.any():
            continue
        positives = _weighed(weights, images[some], counts[some, area])
        apart = (IOU_50, IOU_75) if area == ALL else ()
        sums = _ap(_Found.of(matches, rows, area), weights, positives, apart)
        sums[:, positives == 0] = np.nan
        table[area] = sums[0]
        if apart:
            table[len(AREAS) :] = sums[1:]
    return table


def _weighed(weights: Weights, images: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The boxes that each resample has, of `counts` in `images`: [B]."""
    total = np.zeros(weights.shape[1])
    for start in range(0, len(images), _IMAGES):
        chunk = slice(start, start + _IMAGES)
        total += counts[chunk].astype(np.float64) @ weights[images[chunk]]
    return total


@dataclass(frozen=True)
class _Found:
    """The detections of a class as an area has them.

    N are named one by one: those that are right at some IoU, or not counted at some. The others are wrong at each, and
    only what they weigh between two of the N matters.
    """

    images: NDArray[np.int64]  # [N]
    right: NDArray[np.bool_]  # [N, 10]
    counted: NDArray[np.bool_]  # [N, 10]
    wrong: NDArray[np.int64]  # images of the others, in order
    begins: NDArray[np.int64]  # [N + 1]: `wrong[begins[n]:begins[n + 1]]` come just before n

    @classmethod
    def of(cls, matches: Matches, rows: slice, area: int) -> _Found:
        right, counted = matches.right[:, area], matches.counted[:, area]
        # By state first: there are far fewer of them than of detections.
        right_once, counted_once = np.asarray(right.any(axis=1)), np.asarray(counted.any(axis=1))
        wrong_always = np.asarray(counted.all(axis=1)) & ~right_once
        states = matches.states[rows]
        last = np.flatnonzero(right_once[states])
        states = states[: last[-1] + 1 if len(last) else 0]  # those after the last right one change nothing
        images = matches.images[rows][: len(states)]
        wrong = wrong_always[states]
        named = counted_once[states] & ~wrong
        begins = np.concatenate([[0], np.cumsum(wrong)[named]])
        return cls(images[named], right[states[named]], counted[states[named]], images[wrong], begins)


def _ap(found: _Found, weights: Weights, positives: NDArray[np.float64], apart: tuple[int, ...]) -> NDArray[np.float64]:
    """AP [1 + len(apart), B]: the mean over all IoUs, then each of `apart`; `positives` [B] boxes are to be found."""
    resamples = weights.shape[1]
    sums = np.zeros((1 + len(apart), resamples))
    if len(found.images):
        steps = _Steps.of(found)
        width = max(_NARROWEST, _BLOCK // max(len(steps.named), len(found.images)))
        for start in range(0, resamples, width):
            block = slice(start, start + width)
            mine = weights if width >= resamples else np.ascontiguousarray(weights[:, block])
            right = steps.right.sums(mine)
            steps.cumulate(right)
            precision = _counted(found, steps, mine)
            np.divide(right, precision, out=precision)
            sums[:, block] = steps.sums(right, precision, positives[block], apart)
    sums[0] /= len(IOUS)
    return sums / len(RECALLS)


def _counted(found: _Found, steps: _Steps, weights: Weights) -> Floats:
    """At each step, the weight of all detections up to there that are counted at its IoU: [R, B']."""
    weight = _Segments(found.wrong, found.begins[:-1], np.diff(found.begins)).sums(weights)
    weight += weights[found.images] * np.asarray(found.counted.all(axis=1))[:, None]
    for row in range(1, len(weight)):  # several times faster than `np.cumsum` along the first axis
        np.add(weight[row], weight[row - 1], out=weight[row])
    weight += _TINY
    counted = np.take(weight, steps.named, axis=0)
    if steps.sometimes.lengths.any():
        more = steps.sometimes.sums(weights)
        steps.cumulate(more)
        counted += more
    return counted


@dataclass(frozen=True)
class _Segments:
    """M ranges of a list of images: `images[firsts[m]:firsts[m] + lengths[m]]`."""

    images: NDArray[np.int64]
    firsts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def sums(self, weights: Weights) -> Floats:
        """Their weights [M, B], added in bytes, the fastest to add: so many at a time as cannot wrap around."""
        sums = np.zeros((len(self.lengths), weights.shape[1]), np.float32)
        order = np.argsort(-self.lengths, kind="stable")  # the longest first: those that still go on are the first
        firsts, descending = self.firsts[order], -self.lengths[order]
        longest = int(self.lengths.max(initial=0))
        step = max(1, 255 // max(1, int(weights.max(initial=0))))
        for start in range(0, longest, step):
            going = int(np.searchsorted(descending, -start, side="left"))
            part = weights[self.images[firsts[:going] + start]]
            for offset in range(start + 1, min(start + step, longest)):
                still = int(np.searchsorted(descending, -offset, side="left"))
                part[:still] += weights[self.images[firsts[:still] + offset]]
            sums[order[:going]] += part
        return sums


@dataclass(frozen=True)
class _Steps:
    """Runs of right detections with no wrong one between them, R of all IoUs: the first of each, then the second...

    Within a run precision rises, so it is best at the end: a run is one step. IoUs are sorted by how many steps they
    have, most first. So a round is one range, and it goes on from the first ones of the round before.
    """

    named: NDArray[np.int64]  # [R] which of the N detections is the last of the run
    ious: NDArray[np.int64]  # [R]
    right: _Segments  # [R] the detections of the run
    sometimes: _Segments  # [R] those since the step before that are counted at this IoU and not at every one
    starts: list[int]  # of each round, and R
    counts: NDArray[np.int64]  # [S] steps of each IoU that has any

    @classmethod
    def of(cls, found: _Found) -> _Steps:
        by_iou = [_runs(found, iou) for iou in range(len(IOUS))]
        counts = np.array([len(ends) for ends, *_ in by_iou])
        order = [int(iou) for iou in np.argsort(-counts, kind="stable") if counts[iou]]
        widths = np.bincount(np.concatenate([np.arange(counts[iou]) for iou in order]))  # of each round
        starts = np.concatenate([[0], np.cumsum(widths)])
        # In the order of the IoUs first, then each at its place.
        places = np.concatenate([starts[: counts[iou]] + place for place, iou in enumerate(order)])
        named, right, sometimes = (_placed([by_iou[iou][part] for iou in order], places) for part in range(3))
        ious = np.empty(starts[-1], np.int64)
        ious[places] = np.repeat(order, counts[order])
        return cls(named, ious, right, sometimes, starts.tolist(), counts[order])

    def cumulate(self, values: Floats) -> None:
        """Sums of [R, B'] from round to round, in place."""
        before = 0
        for start, stop in zip(self.starts[1:], self.starts[2:], strict=False):
            here = values[start:stop]
            np.add(here, values[before : before + stop - start], out=here)
            before = start

    def sums(
        self, right: Floats, precision: Floats, positives: NDArray[np.float64], apart: tuple[int, ...]
    ) -> NDArray[np.float64]:
        """Precision at each of COCO's recalls, added up, over all IoUs and over each of `apart`: [1 + len(apart), B'].

        `precision` becomes the best from each step on.
        """
        falls = self._falls(precision)
        safe = np.maximum(positives, 1)
        # Two different fractions lie 1 / (100 * positives) apart or more: half of that tells them apart.
        kind: type[np.floating[Any]] = np.float32 if safe.max() < 2**14 else np.float64
        scale, more = (100 / safe).astype(kind), (1 + 0.5 / safe).astype(kind)
        total = np.zeros((1 + len(apart), right.shape[1]))
        rows = max(1, _CHUNK // right.shape[1])
        for start in range(0, len(right), rows):
            chunk = slice(start, start + rows)
            reached = np.multiply(right[chunk], scale)
            reached += more
            np.floor(reached, out=reached)
            total[0] += np.einsum("rb,rb->b", reached, falls[chunk])
            for place, iou in enumerate(apart, start=1):
                if len(mine := np.flatnonzero(self.ious[chunk] == iou)):
                    total[place] += np.einsum("rb,rb->b", reached[mine], falls[chunk][mine])
        self._take_back(total, right, precision, positives, apart)
        return total

    def _falls(self, precision: Floats) -> Floats:
        """How much the best precision falls after each step; `precision` becomes the best."""
        falls = precision.copy()
        after: Any = None
        for start, stop in zip(self.starts[-2::-1], self.starts[:0:-1], strict=True):
            if after is not None:
                here = precision[start : start + len(after)]
                np.maximum(here, after, out=here)
                np.subtract(here, after, out=falls[start : start + len(after)])
            after = precision[start:stop]
        return falls

    def _take_back(
        self,
        total: NDArray[np.float64],
        right: Floats,
        best: Floats,
        positives: NDArray[np.float64],
        apart: tuple[int, ...],
    ) -> None:
        """What was given for a recall that a fraction equals and yet does not reach: see `_TOO_HIGH`."""
        ties = positives[:, None] * _TOO_HIGH / 100  # [B', 10]: the weight that would be that recall
        columns, which = np.nonzero((ties == np.round(ties)) & (positives[:, None] > 0))
        if not len(columns):
            return
        wanted = ties[columns, which].astype(np.float32)
        places = np.arange(len(self.counts))[:, None]
        counts = self.counts[:, None]
        starts = np.array(self.starts)
        first, later = self._places(right, columns, wanted, strict=True), self._places(right, columns, wanted)
        ends = np.minimum([first, later], counts - 1)
        values = np.where([first < counts, later < counts], best[starts[ends] + places, columns], 0)
        lost = values[0] - values[1]  # [S, C]
        total[0] -= np.bincount(columns, lost.sum(axis=0), minlength=total.shape[1])
        for place, iou in enumerate(apart, start=1):
            for row in np.flatnonzero(self.ious[: len(self.counts)] == iou):
                total[place] -= np.bincount(columns, lost[row], minlength=total.shape[1])

    def _places(
        self, right: Floats, columns: NDArray[np.int64], wanted: Floats, *, strict: bool = False
    ) -> NDArray[np.int64]:
        """How many steps of each IoU are not above the wanted value of each column, or strictly below it: [S, C]."""
        below = np.less if strict else np.less_equal
        places, counts = np.arange(len(self.counts))[:, None], self.counts[:, None]
        starts = np.array(self.starts)
        found = np.zeros((len(self.counts), len(columns)), np.int64)
        step = 1 << int(self.counts[0]).bit_length()
        while step := step >> 1:
            probe = found + step
            there = starts[np.minimum(probe, counts) - 1] + places
            found += step * ((probe <= counts) & below(right[there, columns], wanted))
        return found


def _runs(found: _Found, iou: int) -> tuple[NDArray[np.int64], _Segments, _Segments]:
    """The ends of the runs of one IoU, their detections, and those that are counted here and not everywhere."""
    right = np.flatnonzero(found.right[:, iou])
    wrong = found.begins[1:] + np.cumsum(found.counted[:, iou] & ~found.right[:, iou])  # up to each of the N
    last = np.append(np.diff(wrong[right]) > 0, True)[: len(right)]
    ends = np.flatnonzero(last)
    begins = np.concatenate([[0], ends + 1])
    here = np.flatnonzero(found.counted[:, iou] & ~found.counted.all(axis=1))
    upto = np.concatenate([[0], np.searchsorted(here, right[ends], side="right")])
    return (
        right[ends],
        _Segments(found.images[right], begins[:-1], np.diff(begins)),
        _Segments(found.images[here], upto[:-1], np.diff(upto)),
    )


def _placed(parts: list[Any], places: NDArray[np.int64]) -> Any:
    """Arrays, or ranges of lists, one after the other, each entry then put at its place."""
    if isinstance(parts[0], _Segments):
        offsets = np.cumsum([0, *(len(part.images) for part in parts[:-1])])
        firsts = [part.firsts + offset for part, offset in zip(parts, offsets, strict=True)]
        lengths = _placed([part.lengths for part in parts], places)
        return _Segments(np.concatenate([part.images for part in parts]), _placed(firsts, places), lengths)
    joined = np.concatenate(parts)
    placed = np.empty_like(joined)
    placed[places] = joined
    return placed
