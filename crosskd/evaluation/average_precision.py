"""What pycocotools says of detections: the 12 COCO numbers, numbers per class, and precision-recall curves."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crosskd.data.annotations import Annotations
from crosskd.data.as_is import BoxesAsTheyStand
from crosskd.evaluation.matches import packed_matches
from crosskd.spec.detections import best_score
from crosskd.structures import Curves

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CLASS_METRICS = ("AP50", "AP75", "AR100")
NO_GROUND_TRUTH = -1.0  # what COCO says where there is nothing to measure
COCO_LIMITS = (1, 10, 100)  # detections an image of AR1, AR10 and AR100; COCO's AP counts the last
_IOU_50, _IOU_75 = 0, 5  # of COCO's ten: 0.50, 0.55 ... 0.95
_ANY_SIZE = [0, 1e10]  # square pixels, as pycocotools has it
_ALL, *_SIZES = range(4)  # of pycocotools' areas: all, small, medium, large


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

    Where the `truth` was read `as_is`, the numbers are plain pycocotools' on the file itself. Else ground truth flagged
    `ignore` is neither missed nor found; pycocotools overwrites that flag by `iscrowd`, and so would count it as any
    other.
    """
    if not found or not truth.classes:
        return _without_ground_truth(truth.classes)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress and its table
        result = _evaluator(truth, found)
        result.params.maxDets = sorted({*COCO_LIMITS, max(COCO_LIMITS[-1], max_detections)})
        result.evaluate()
        result.accumulate()
    # Of [IoU, recall, class, area, detections] and [IoU, class, area, detections].
    precision = result.eval["precision"][:, :, :, _ALL, -1]  # [10, 101, K]: all areas, most detections
    recall = result.eval["recall"][:, :, _ALL, len(COCO_LIMITS) - 1]  # [10, K]: all areas, 100 detections
    classes = list(enumerate(truth.classes))
    return CocoResult(
        metrics=_metrics(result.eval["precision"], result.eval["recall"]),
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
        matches=packed_matches(result, truth, image_order(truth, found)),
        score=_best_score(result.evalImgs),
    )


def counted_detections(truth: Annotations, made: int) -> int:
    """How many of the `made` detections an image counts: all, or where `truth` is as it stands, what COCO counts."""
    return made if truth.as_is is None else min(made, COCO_LIMITS[-1])


def _evaluator(truth: Annotations, found: dict[int, ImageDetections]) -> COCOeval:
    """Ready to evaluate the images in `found`. Raises `KeyError` for an image that the truth does not have."""
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(truth.classes)]
    if truth.as_is is not None:  # by their own ids: pycocotools goes by these, which counts where scores are equal
        keys = {image_id: image_id for image_id in image_order(truth, found)}
        expected = _entries_as_they_stand(truth.as_is, keys.keys())
    else:
        positions = _positions(truth)
        keys = {image_id: positions[image_id] + 1 for image_id in image_order(truth, found)}
        expected = [box for key in keys.values() for box in _truth_entries(truth, key)]
    predicted = [box for image_id, key in keys.items() for box in _detection_entries(key, found[image_id])]
    images = [{"id": key} for key in keys.values()]
    kind = _Evaluator if truth.as_is is None else COCOeval
    return kind(_coco(images, categories, expected), _coco(images, categories, predicted), iouType="bbox")


def image_order(truth: Annotations, found: Collection[int]) -> list[int]:
    """In which the evaluation has the images: by their ids where the truth is as it stands, else as in the file."""
    return sorted(found) if truth.as_is is not None else sorted(found, key=_positions(truth).__getitem__)


def _positions(truth: Annotations) -> dict[int, int]:
    return {int(image_id): index for index, image_id in enumerate(truth.image_ids)}


def _best_score(entries: Sequence[dict[str, Any] | None]) -> float | None:
    """Out of `COCOeval.evalImgs`: boxes of all sizes and classes, whatever their image."""
    kept = [entry for entry in entries if entry is not None and entry["aRng"] == _ANY_SIZE]
    scores = np.concatenate([np.zeros(0), *(np.asarray(entry["dtScores"], float) for entry in kept)])
    right = np.concatenate([np.zeros(0, bool), *(entry["dtMatches"][_IOU_50] != 0 for entry in kept)])
    counted = np.concatenate([np.zeros(0, bool), *(entry["dtIgnore"][_IOU_50] == 0 for entry in kept)])
    boxes = sum(int(np.count_nonzero(entry["gtIgnore"] == 0)) for entry in kept)
    scores, right = scores[counted], right[counted]
    order = np.argsort(-scores, kind="stable")
    return best_score(scores[order].tolist(), right[order].tolist(), boxes)


class _Evaluator(COCOeval):  # type: ignore[misc]  # pycocotools has no types
    def _prepare(self) -> None:
        super()._prepare()
        for boxes in self._gts.values():
            for box in boxes:
                box["ignore"] = bool(box["iscrowd"] or box["set_aside"])


def _metrics(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float]:
    """Of precision [10, 101, K, 4, L] and recall [10, K, 4, L] at L limits, COCO's and perhaps one above them.

    Not by `COCOeval.summarize`: it takes AP at 100 detections, whatever the limits are, and AP50 at the third of them.
    """
    values = [
        *(precision[ious, ..., _ALL, -1] for ious in (slice(None), _IOU_50, _IOU_75)),
        *(precision[..., area, -1] for area in _SIZES),
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


def _coco(images: list[dict[str, Any]], categories: list[dict[str, Any]], boxes: list[dict[str, Any]]) -> COCO:
    """Boxes without ids get some from 1 on: pycocotools takes a matched annotation with id 0 for an unmatched one."""
    coco = COCO()
    annotations = [{"id": number} | box for number, box in enumerate(boxes, start=1)]
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def _truth_entries(truth: Annotations, key: int) -> list[dict[str, Any]]:
    """Of the image at position `key` - 1."""
    rows = truth.rows(key - 1)
    return [
        {
            "image_id": key,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": int(crowd),
            "set_aside": ignore,
        }
        for (x1, y1, x2, y2), label, area, crowd, ignore in zip(
            truth.boxes[rows].tolist(),
            truth.labels[rows].tolist(),
            truth.areas[rows].tolist(),
            truth.crowd[rows].tolist(),
            truth.ignore[rows].tolist(),
            strict=True,
        )
    ]


def _entries_as_they_stand(boxes: BoxesAsTheyStand, images: Collection[int]) -> list[dict[str, Any]]:
    """With their own ids: pycocotools' numbers depend on them where an id is 0."""
    return [
        {"id": key, "image_id": image, "category_id": label + 1, "bbox": [*box], "area": area, "iscrowd": crowd}
        for (key, image, label, crowd), (*box, area) in zip(boxes.whole.tolist(), boxes.flat.tolist(), strict=True)
        if image in images
    ]


def _detection_entries(key: int, found: ImageDetections) -> list[dict[str, Any]]:
    return [
        {
            "image_id": key,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "score": score,
        }
        for (x1, y1, x2, y2), label, score in zip(
            found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        )
    ]
