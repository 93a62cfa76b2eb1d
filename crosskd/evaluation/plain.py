"""The 12 numbers by pycocotools itself, where the ground truth is taken as it stands in the file."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crosskd.data.as_is import BoxesAsTheyStand

if TYPE_CHECKING:
    from crosskd.evaluation.average_precision import ImageDetections


def plain_metrics(
    boxes: BoxesAsTheyStand, classes: Sequence[str], found: Mapping[int, ImageDetections], names: Sequence[str]
) -> dict[str, float]:
    """COCO's numbers by `names`, over the images in `found` (image id -> detections); -1 where there is no box.

    Boxes keep their own ids: pycocotools takes a detection of the box whose id is 0 for one of nothing.
    """
    expected = [
        {"id": key, "image_id": image, "category_id": label + 1, "bbox": [*box], "area": area, "iscrowd": crowd}
        for (key, image, label, crowd), (*box, area) in zip(boxes.whole.tolist(), boxes.flat.tolist(), strict=True)
        if image in found
    ]
    predicted = [one for image in sorted(found) for one in _entries(image, found[image])]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(classes)]
    images = [{"id": image} for image in sorted(found)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress and its table
        result = COCOeval(_coco(images, categories, expected), _coco(images, categories, predicted), iouType="bbox")
        result.evaluate()
        result.accumulate()
        result.summarize()
    return dict(zip(names, map(float, result.stats), strict=True))


def _entries(image: int, found: ImageDetections) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image,
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


def _coco(images: list[dict[str, Any]], categories: list[dict[str, Any]], boxes: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    annotations = [{"id": number} | box for number, box in enumerate(boxes, start=1)]
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco
