"""What pycocotools says of detections: the 12 COCO numbers, numbers per class, and precision-recall curves."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crosskd.data.annotations import Annotations
from crosskd.structures import Curves

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CLASS_METRICS = ("AP50", "AP75", "AR100")
NO_GROUND_TRUTH = -1.0  # what COCO says where there is nothing to measure
COCO_LIMITS = (1, 10, 100)  # detections an image of AR1, AR10 and AR100; COCO's AP counts the last
_IOU_50, _IOU_75 = 0, 5  # of COCO's ten: 0.50, 0.55 ... 0.95
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


def average_precision(
    truth: Annotations, found: dict[int, ImageDetections], *, max_detections: int = COCO_LIMITS[-1]
) -> CocoResult:
    """COCO's numbers over the images in `found` (image id -> detections), whatever order they come in.

    `max_detections` is how many detections an image may have: all of them count in AP, in recall by area and in the
    curves. COCO itself counts 100; AR1, AR10 and AR100 count what they are named after.

    Ground truth flagged `ignore` is neither missed nor found; pycocotools overwrites that flag by `iscrowd`, and so
    would count it as any other.
    """
    positions = {int(image_id): index for index, image_id in enumerate(truth.image_ids)}
    there = sorted((positions[image_id], detections) for image_id, detections in found.items())
    if not there or not truth.classes:
        return _without_ground_truth(truth.classes)
    images = [{"id": index + 1} for index, _ in there]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(truth.classes)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress and its table
        expected = _coco(images, categories, [box for index, _ in there for box in _truth_entries(truth, index)])
        predicted = _coco(
            images, categories, [box for index, detections in there for box in _detection_entries(index, detections)]
        )
        result = _Evaluator(expected, predicted, iouType="bbox")
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
    )


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
    )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > NO_GROUND_TRUTH]
    return float(known.mean()) if known.size else NO_GROUND_TRUTH


def _curves(classes: list[str], precision: NDArray[np.float64]) -> Curves:
    """Out of the precision [10, 101, K]. Where a class has no ground truth, all of its values are -1."""
    kept = np.stack([precision[_IOU_50], precision[_IOU_75], precision.mean(axis=0)])  # [3, 101, K]
    return Curves(tuple(classes), kept.transpose(0, 2, 1))


def _coco(images: list[dict[str, Any]], categories: list[dict[str, Any]], boxes: list[dict[str, Any]]) -> COCO:
    """Ids start at 1: pycocotools takes a matched annotation with id 0 for an unmatched one."""
    coco = COCO()
    annotations = [{"id": number, **box} for number, box in enumerate(boxes, start=1)]
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def _truth_entries(truth: Annotations, index: int) -> list[dict[str, Any]]:
    rows = truth.rows(index)
    return [
        {
            "image_id": index + 1,
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


def _detection_entries(index: int, found: ImageDetections) -> list[dict[str, Any]]:
    return [
        {
            "image_id": index + 1,
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
