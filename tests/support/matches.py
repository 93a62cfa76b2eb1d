"""Small validation splits with detections, drawn at random, and the files of matches that they come to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crosskd.data.annotations import Annotations, read_annotations
from crosskd.evaluation.average_precision import CocoResult, ImageDetections, average_precision

SIDE = 300  # pixels of an image: boxes of all three sizes fit
CLASSES = ("cat", "dog", "newt")

Found = dict[int, ImageDetections]


def truth(
    folder: Path, seed: int, *, images: int = 8, as_is: bool = False, classes: Sequence[str] | None = None
) -> Annotations:
    """Boxes of two of the three classes: crowds, ignored ones and sizes on the very borders among them."""
    draw = np.random.default_rng(seed)
    boxes: list[dict[str, Any]] = []
    for image in range(images):
        for _ in range(draw.integers(0, 7)):
            box = _box(draw)
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": 3 * image + 1,
                    "category_id": int(draw.integers(1, 3)),
                    "bbox": box,
                    "area": float(draw.choice([box[2] * box[3], 32**2, 96**2])),
                    "iscrowd": int(draw.random() < 0.15),
                    "ignore": int(draw.random() < 0.15),
                }
            )
    content = {
        "images": [
            {"id": 3 * image + 1, "file_name": f"{image}.png", "width": SIDE, "height": SIDE} for image in range(images)
        ],
        "annotations": boxes,
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)],
    }
    path = folder / f"truth-{seed}.json"
    path.write_text(json.dumps(content))
    return read_annotations(path, classes, as_is=as_is)


def detections(known: Annotations, seed: int, *, ties: bool = True, most: int = 30) -> Found:
    """Some boxes found more or less well, some twice, and others where there is nothing; scores may be equal."""
    draw = np.random.default_rng(seed)
    found: Found = {}
    for place, image_id in enumerate(known.image_ids.tolist()):
        rows = known.rows(place)
        kept = np.flatnonzero(draw.random(rows.stop - rows.start) < 0.8) + rows.start
        kept = np.concatenate([kept, kept[draw.random(len(kept)) < 0.3]])
        near = known.boxes[kept] + draw.normal(0, draw.choice([0, 1, 5, 15]), (len(kept), 4))
        far = np.array([_box(draw) for _ in range(draw.integers(0, most))], float).reshape(-1, 4)
        far[:, 2:] += far[:, :2]
        labels = np.concatenate([known.labels[kept], draw.integers(0, len(known.classes), len(far))])
        count = len(labels)
        scores = draw.integers(1, 6, count) / 8 if ties else draw.random(count)
        order = np.argsort(-scores, kind="stable")
        boxes = np.concatenate([near, far])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        found[image_id] = ImageDetections(boxes[order], scores[order].astype(np.float32).astype(float), labels[order])
    return found


def measured(folder: Path, seed: int, **settings: Any) -> CocoResult:
    """Of a split that depends on `seed`, with detections that do, too."""
    known = truth(folder, seed, **settings)
    return average_precision(known, detections(known, seed + 1))


def _box(draw: np.random.Generator) -> list[float]:
    width, height = (float(draw.choice([8, 32, 60, 96, 150])) for _ in range(2))
    return [float(draw.integers(0, SIDE - width)), float(draw.integers(0, SIDE - height)), width, height]
