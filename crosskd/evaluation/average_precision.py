"""COCO's numbers, bit for bit pycocotools': the 12, those per class, precision-recall curves, and what was matched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosskd.data.annotations import Annotations
from crosskd.data.as_is import BoxesAsTheyStand
from crosskd.evaluation.accumulation import NO_GROUND_TRUTH, accumulate
from crosskd.evaluation.matches import packed_matches
from crosskd.evaluation.matching import Found, Judged, Truth, judge
from crosskd.evaluation.plain import plain_metrics
from crosskd.spec.results.detections import best_score
from crosskd.structures import Curves

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CLASS_METRICS = ("AP50", "AP75", "AR100")
COCO_LIMITS = (1, 10, 100)  # detections an image of AR1, AR10 and AR100; COCO's AP counts the last
_IOU_50, _IOU_75 = 0, 5  # of COCO's ten: 0.50, 0.55 ... 0.95
_ALL, *_SIZES = range(4)  # of COCO's ranges of area: all, small, medium, large


@dataclass(frozen=True)
class ImageDetections:
    """The detections of one image in its own pixels."""

    boxes: NDArray[np.float64]  # [D, 4] x1 y1 x2 y2
    scores: NDArray[np.float64]  # [D]
    labels: NDArray[np.int64]  # [D]


@dataclass(frozen=True)
class CocoResult:
    """-1 stands where there is no ground truth."""

    metrics: dict[str, float]  # METRICS
    per_class: dict[str, float]  # class name -> AP
    class_metrics: dict[str, dict[str, float]]  # class name -> CLASS_METRICS
    curves: Curves
    matches: bytes | None  # `packed_matches`; None where nothing was evaluated
    score: float | None  # at and above which F1 at IoU 0.5 is highest; None: nothing is right


def average_precision(
    truth: Annotations, found: dict[int, ImageDetections], *, max_detections: int = COCO_LIMITS[-1]
) -> CocoResult:
    """COCO's numbers over the images in `found` (image id -> detections), whatever order they come in.

    `max_detections` is how many detections an image may have: all of them count in AP, in recall by area and in the
    curves. COCO itself counts 100; AR1, AR10 and AR100 count what they are named after.

    Where the `truth` was read `as_is`, the 12 numbers are pycocotools' own, on the file itself. Else ground truth
    flagged `ignore` is neither missed nor found; pycocotools overwrites that flag by `iscrowd`, and so would count it
    as any other.
    """
    if not found or not truth.classes:
        return _without_ground_truth(truth.classes)
    order, limits = image_order(truth, found), sorted({*COCO_LIMITS, max(COCO_LIMITS[-1], max_detections)})
    judged = judge(
        _truth(truth, order), _found(order, found), classes=len(truth.classes), images=len(order), most=limits[-1]
    )
    precisions, recalls = accumulate(judged, limits)  # [10, 101, K, 4], [10, K, 4, L]
    precision = precisions[..., _ALL]  # [10, 101, K]
    recall = recalls[..., _ALL, len(COCO_LIMITS) - 1]  # [10, K]: 100 detections
    classes = list(enumerate(truth.classes))
    return CocoResult(
        metrics=_metrics(precisions, recalls)
        if truth.as_is is None
        else plain_metrics(truth.as_is, truth.classes, found, METRICS),
        per_class={name: _mean(precision[:, :, label]) for label, name in classes},
        class_metrics={
            name: {
                "AP50": _mean(precision[_IOU_50, :, label]),
                "AP75": _mean(precision[_IOU_75, :, label]),
                "AR100": _mean(recall[:, label]),
            }
            for label, name in classes
        },
        curves=_curves(truth.classes, precision),
        matches=packed_matches(judged, limits, truth, order),
        score=_best_score(judged),
    )


def counted_detections(truth: Annotations, made: int) -> int:
    """How many of the `made` detections an image counts: all, or where `truth` is as it stands, what COCO counts."""
    return made if truth.as_is is None else min(made, COCO_LIMITS[-1])


def image_order(truth: Annotations, found: Collection[int]) -> list[int]:
    """In which the evaluation has the images: by their ids where the truth is as it stands, else as in the file."""
    return sorted(found) if truth.as_is is not None else sorted(found, key=_positions(truth).__getitem__)


def _positions(truth: Annotations) -> dict[int, int]:
    return {int(image_id): index for index, image_id in enumerate(truth.image_ids)}


def _best_score(judged: Judged) -> float | None:
    """Over boxes of all sizes and classes, whatever their image."""
    right, counted = judged.right[:, _ALL, _IOU_50], judged.counted[:, _ALL, _IOU_50]
    scores, right = judged.scores[counted], right[counted]
    order = np.argsort(-scores, kind="stable")
    return best_score(scores[order].tolist(), right[order].tolist(), int(judged.truth_counts[:, _ALL].sum()))


def _metrics(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float]:
    """Of precision [10, 101, K, 4] and recall [10, K, 4, L] at L limits, COCO's and perhaps one above them."""
    values = [
        *(precision[ious, ..., _ALL] for ious in (slice(None), _IOU_50, _IOU_75)),
        *(precision[..., area] for area in _SIZES),
        *(recall[..., _ALL, limit] for limit in range(len(COCO_LIMITS))),
        *(recall[..., area, -1] for area in _SIZES),
    ]
    return dict(zip(METRICS, map(_mean, values), strict=True))


def _without_ground_truth(classes: list[str]) -> CocoResult:
    return CocoResult(
        metrics=dict.fromkeys(METRICS, NO_GROUND_TRUTH),
        per_class=dict.fromkeys(classes, NO_GROUND_TRUTH),
        class_metrics={name: dict.fromkeys(CLASS_METRICS, NO_GROUND_TRUTH) for name in classes},
        curves=_curves(classes, np.full((10, 101, len(classes)), NO_GROUND_TRUTH)),
        matches=None,
        score=None,
    )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > NO_GROUND_TRUTH]
    return float(known.mean()) if known.size else NO_GROUND_TRUTH


def _curves(classes: list[str], precision: NDArray[np.float64]) -> Curves:
    """Out of the precision [10, 101, K]. Where a class has no ground truth, all of its values are -1."""
    kept = np.stack([precision[_IOU_50], precision[_IOU_75], precision.mean(axis=0)])  # [3, 101, K]
    return Curves(tuple(classes), kept.transpose(0, 2, 1))


def _truth(truth: Annotations, order: Sequence[int]) -> Truth:
    """The boxes of the images in `order`. Raises `KeyError` for an image that the truth does not have."""
    if truth.as_is is not None:
        return _truth_as_it_stands(truth.as_is, order)
    positions = _positions(truth)
    spans = [truth.rows(positions[image_id]) for image_id in order]
    rows = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    return Truth(
        images=np.repeat(np.arange(len(spans)), [span.stop - span.start for span in spans]),
        labels=truth.labels[rows],
        boxes=_with_sides(truth.boxes[rows]),
        areas=truth.areas[rows],
        crowd=truth.crowd[rows],
        ignored=truth.crowd[rows] | truth.ignore[rows],
        nameless=np.zeros(len(rows), bool),
    )


def _truth_as_it_stands(boxes: BoxesAsTheyStand, order: Sequence[int]) -> Truth:
    """pycocotools overwrites `ignore` by `iscrowd`, and takes a detection of a box whose id is 0 for one of nothing."""
    ids = np.array(order, np.int64)  # ascending
    whole, flat = boxes.whole, boxes.flat
    used = np.isin(whole[:, 1], ids)
    whole, flat = whole[used], flat[used]
    crowd = whole[:, 3] != 0
    images = np.searchsorted(ids, whole[:, 1])
    return Truth(images, whole[:, 2], flat[:, :4], flat[:, 4], crowd, ignored=crowd, nameless=whole[:, 0] == 0)


def _found(order: Sequence[int], found: Mapping[int, ImageDetections]) -> Found:
    ones = [found[image_id] for image_id in order]
    return Found(
        images=np.repeat(np.arange(len(ones)), [len(one.scores) for one in ones]),
        labels=np.concatenate([one.labels for one in ones]),
        boxes=_with_sides(np.concatenate([one.boxes.reshape(-1, 4) for one in ones])),
        scores=np.concatenate([one.scores for one in ones]),
    )


def _with_sides(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes [N, 4] of x1 y1 x2 y2 as x, y, width, height."""
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
