"""What an evaluation takes beyond the network: decoding, non-maximum suppression, and AP, next to plain pycocotools.

    python -m benchmarks.evaluation [--images 5000] [--rounds 3]

Made-up images of 640 x 480 pixels with seven boxes of 80 classes each. First a GFL head's outputs for such images, with
the detector's own thresholds, become detections: decoding and suppression, image by image. Then AP of 100 made-up
detections an image, a third of them near a box: by `crosskd.evaluation`, which also gives curves and the file of
matches, and by pycocotools on the same detections, its reading of them included, side by side in each round. The 12
numbers must be the same to the bit. The exit status says so, and whether AP is at least five times as fast.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crosskd.data.annotations import Annotations, read_annotations
from crosskd.detectors.detector import build_detector
from crosskd.evaluation.average_precision import ImageDetections, average_precision
from crosskd.spec.config import BackboneConfig, ModelConfig

TARGET = 5.0  # times as fast as pycocotools
CLASSES, BOXES, DETECTIONS, NEAR = 80, 7, 100, 33
HEIGHT, WIDTH = 480, 640
BATCH = 8


def made_up(images: int) -> tuple[dict[str, Any], dict[int, ImageDetections]]:
    """The content of a COCO file, and detections of its images."""
    draw = np.random.default_rng(0)
    boxes, labels = _boxes(draw, images * BOXES), draw.integers(0, CLASSES, images * BOXES)
    sides = boxes[:, 2:] - boxes[:, :2]
    columns = (labels.tolist(), np.concatenate([boxes[:, :2], sides], axis=1).tolist(), sides.prod(axis=1).tolist())
    entries = [
        {"id": n + 1, "image_id": n // BOXES + 1, "category_id": label + 1, "bbox": box, "area": area}
        | {"iscrowd": int(n % 100 == 0)}
        for n, (label, box, area) in enumerate(zip(*columns, strict=True))
    ]
    content = {
        "images": [{"id": n + 1, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(images)],
        "categories": [{"id": label + 1, "name": f"class {label}"} for label in range(CLASSES)],
        "annotations": entries,
    }
    found = {}
    for image in range(images):
        near = image * BOXES + draw.integers(0, BOXES, NEAR)
        corners = np.concatenate([boxes[near] + draw.normal(0, 4, (NEAR, 4)), _boxes(draw, DETECTIONS - NEAR)])
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
        own = np.concatenate([labels[near], draw.integers(0, CLASSES, DETECTIONS - NEAR)])
        scores = np.sort(draw.random(DETECTIONS).astype(np.float32).astype(float))[::-1]
        order = draw.permutation(DETECTIONS)
        found[image + 1] = ImageDetections(corners[order], scores, own[order])
    return content, found


def _boxes(draw: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Corners of boxes of 8 to 300 pixels a side, within the image."""
    sides = np.exp(draw.uniform(np.log(8), np.log(300), (count, 2)))
    low = draw.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([low, low + sides], axis=1)


def truth_of(content: dict[str, Any]) -> Annotations:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(content))
        return read_annotations(path)


def as_array(found: dict[int, ImageDetections]) -> NDArray[np.float64]:
    """Detections as pycocotools takes them: [D, 7] of image, x, y, width, height, score, category."""
    boxes = np.concatenate([one.boxes for one in found.values()])
    return np.column_stack(
        [
            np.repeat([*found], DETECTIONS),
            boxes[:, :2],
            boxes[:, 2:] - boxes[:, :2],
            np.concatenate([one.scores for one in found.values()]),
            np.concatenate([one.labels + 1 for one in found.values()]),
        ]
    )


def plain(content: dict[str, Any], detections: NDArray[np.float64]) -> list[float]:
    """The 12 numbers by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        result = COCOeval(truth, truth.loadRes(detections), "bbox")
        result.evaluate()
        result.accumulate()
        result.summarize()
    numbers: list[float] = result.stats.tolist()
    return numbers


def detection_seconds(images: int) -> tuple[float, float]:
    """Of decoding and suppression: seconds for `images` images, and how many detections an image had."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=BackboneConfig(name="resnet18", init="random"))
    detector = build_detector(config, CLASSES, pretrained=False).eval()
    sizes = [(HEIGHT, WIDTH)] * BATCH
    with torch.no_grad():
        head = detector.head
        predictions = head(detector.features(torch.randn(BATCH, 3, HEIGHT, WIDTH)))
        for level in predictions.cls:  # as a trained head's: some 700 of 512,000 above the threshold
            level.copy_(torch.randn_like(level) - 6)
        seconds, made = 0.0, 0
        for _ in range(-(-images // BATCH)):
            began = time.perf_counter()
            found = head.detect(predictions, sizes, config.postprocess)
            seconds += time.perf_counter() - began
            made += sum(len(one.scores) for one in found)
    done = -(-images // BATCH) * BATCH
    return seconds / done * images, made / done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    content, found = made_up(given.images)
    truth, detections = truth_of(content), as_array(found)
    times: dict[str, list[float]] = {"ours": [], "pycocotools": []}
    equal = True
    for _ in range(given.rounds):
        began = time.perf_counter()
        ours = [*average_precision(truth, found).metrics.values()]
        between = time.perf_counter()
        theirs = plain(content, detections)
        times["ours"].append(between - began)
        times["pycocotools"].append(time.perf_counter() - between)
        equal &= ours == theirs
    ratios = [theirs / ours for ours, theirs in zip(*times.values(), strict=True)]
    before, count = detection_seconds(given.images)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{given.images} images, {DETECTIONS} detections each, {CLASSES} classes; seconds, one thread")
    print("| decoding and suppression | AP, curves and matches | pycocotools | ratio (min..max) | with decoding |")
    print("|---|---|---|---|---|")
    whole = (before + medians["pycocotools"]) / (before + medians["ours"])
    spread = f"**{statistics.median(ratios):.0f}x** ({min(ratios):.0f}..{max(ratios):.0f})"
    print(f"| {before:.1f} | {medians['ours']:.2f} | {medians['pycocotools']:.1f} | {spread} | {whole:.1f}x |")
    print(f"decoding and suppression made {count:.0f} detections an image; AP {ours[0]:.4f}")
    print(f"the 12 numbers are equal to the bit: {'yes' if equal else 'NO'}")
    print(f"target: {TARGET:.0f}x: {'met' if min(ratios) >= TARGET else 'MISSED'}")
    return 0 if equal and min(ratios) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
