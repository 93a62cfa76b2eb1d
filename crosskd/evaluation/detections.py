"""What a detector has found in the validation images, as files that the service shows them from.

`crosskd/spec/results/detections.py` describes them. They are compressed while they are written: the text of COCO's
validation split has 50 MB, and is never held.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crosskd.evaluation.average_precision import ImageDetections
from crosskd.spec.results.detections import DIGITS, FORMAT, score_text
from crosskd.spec.results.files import BEST_FILES, samples_name
from crosskd.structures import Evaluation
from crosskd.weights.files import File, write_bytes

LEVEL = 6  # of gzip


def packed_detections(
    found: Mapping[int, ImageDetections], images: Iterable[int], category_ids: Sequence[int]
) -> bytes:
    """A COCO results list of the `images` in `found`, in that order, compressed. The same every time."""
    return _compressed(_list(found, images, category_ids))


def packed_samples(
    found: Mapping[int, ImageDetections],
    images: Sequence[int],
    category_ids: Sequence[int],
    *,
    model: str,
    step: int,
    score: float | None,
) -> bytes:
    """The file of the sample `images`, all in `found`, compressed; `score` is where F1 is highest over all images."""
    head = json.dumps({"format": FORMAT, "model": model, "step": step})[:-1]
    told = "null" if score is None else score_text(score)
    middle = f', "score": {told}, "images": {json.dumps(list(images))}, "detections": '
    return _compressed([head + middle, *_list(found, images, category_ids), "}\n"])


def write_detections(folder: Path, evaluation: Evaluation) -> File | None:
    """Write what was found in all images into `folder`, if anything was evaluated. Raises `OSError`."""
    if evaluation.detections is None:
        return None
    path = folder / BEST_FILES["detections"]
    return File(path, "detections", evaluation.step, write_bytes(path, evaluation.detections()))


def write_samples(folder: Path, evaluation: Evaluation) -> File | None:
    """Write what was found in the sample images into `folder`, as `write_detections`."""
    if evaluation.samples is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / samples_name(evaluation.model, evaluation.step)
    return File(path, "samples", evaluation.step, write_bytes(path, evaluation.samples))


def _compressed(parts: Iterable[str]) -> bytes:
    target = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=target, mtime=0) as file:
        for part in parts:
            file.write(part.encode())
    return target.getvalue()


def _list(found: Mapping[int, ImageDetections], images: Iterable[int], category_ids: Sequence[int]) -> Iterator[str]:
    """As JSON, one image a part. What is no number is left out: JSON has no word for it."""
    yield "["
    between = "\n"
    for image_id in images:
        one = found[image_id]
        kept = np.isfinite(one.boxes).all(axis=1) & np.isfinite(one.scores)
        corners = one.boxes[kept].round(DIGITS)
        boxes = np.concatenate([corners[:, :2], (corners[:, 2:] - corners[:, :2]).round(DIGITS)], axis=1)
        if entries := _entries(image_id, boxes, one.scores[kept], one.labels[kept], category_ids):
            yield between + ",\n".join(entries)
            between = ",\n"
    yield "\n]"


def _entries(
    image_id: int,
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    category_ids: Sequence[int],
) -> list[str]:
    return [
        f'{{"image_id":{image_id},"category_id":{category_ids[label]},"bbox":{box},"score":{score_text(score)}}}'
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    ]
