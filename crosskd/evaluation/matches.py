"""What pycocotools has matched, image by image, as one small file: what comparing two models on the same images needs.

`report/matches.py` reads it, and `report/weighted_ap.py` computes AP from it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from crosskd.data.annotations import Annotations
from crosskd.spec.files import MATCHES_FILES
from crosskd.spec.matches import AREAS, BITS, FORMAT, IOUS, KEY
from crosskd.structures import Evaluation
from crosskd.weights.files import File, write_bytes


def packed_matches(result: COCOeval, truth: Annotations, image_ids: Sequence[int]) -> bytes:
    """The file's content, of an evaluation that has been run; `image_ids` in the order that it has the images in."""
    classes = [_of_class(result, label) for label in range(len(truth.classes))]
    states, bits = _distinct([found for found, *_ in classes])
    arrays = {
        "image_ids": np.array(image_ids, np.int64),
        "starts": np.cumsum([0, *(len(found) for found, *_ in classes)], dtype=np.int64),
        "images": _smallest(_joined(images for _, images, *_ in classes)),
        "scores": _single(_joined((scores for *_, scores, _ in classes), np.float64)),
        "states": states,
        "state_bits": bits,
        **_truth(classes),
    }
    described = {
        "format": FORMAT,
        "classes": list(truth.classes),
        "ious": list(IOUS),
        "max_detections": list(map(int, result.params.maxDets)),
        "as_is": truth.as_is is not None,
        "truth_sha256": _truth_digest(truth, image_ids),
    }
    return _saved(arrays, described)


def write_matches(folder: Path, evaluation: Evaluation) -> File | None:
    """Write the matches of `evaluation` into `folder`, if it has any. Raises `OSError`."""
    if evaluation.matches is None:
        return None
    path = folder / MATCHES_FILES["matches"]
    return File(path, "matches", evaluation.step, write_bytes(path, evaluation.matches))


# Of one class: states [D, 80], images [D], scores [D], and rows [G, 5] of an image and its boxes to find, by area.
_Class = tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def _of_class(result: COCOeval, label: int) -> _Class:
    """As `COCOeval.accumulate` sorts and reads it."""
    images = len(result.params.imgIds)
    first = label * len(AREAS) * images
    by_area = [result.evalImgs[first + area * images : first + (area + 1) * images] for area in range(len(AREAS))]
    present = [index for index, entry in enumerate(by_area[0]) if entry is not None]
    found = [[entries[index] for index in present] for entries in by_area]
    scores = _joined((entry["dtScores"] for entry in found[0]), np.float64)
    order = np.argsort(-scores, kind="mergesort")
    states = np.zeros((len(scores), 2, len(AREAS), len(IOUS)), bool)
    for area, entries in enumerate(found):
        if len(scores):
            matched = np.concatenate([entry["dtMatches"] for entry in entries], axis=1) != 0  # [10, D]
            ignored = np.concatenate([entry["dtIgnore"] for entry in entries], axis=1).astype(bool)
            states[:, 0, area] = (matched & ~ignored).T
            states[:, 1, area] = ~ignored.T
    owners = np.repeat(np.array(present, np.int64), np.array([len(entry["dtScores"]) for entry in found[0]], np.int64))
    counts = [
        [index, *(int(np.count_nonzero(entry["gtIgnore"] == 0)) for entry in entries)]
        for index, *entries in zip(present, *found, strict=True)
        if len(entries[0]["gtIds"])
    ]
    truth = np.array(counts, np.int64).reshape(-1, 1 + len(AREAS))
    return states.reshape(len(scores), BITS)[order], owners[order], scores[order], truth


def _distinct(found: Sequence[NDArray[np.bool_]]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """For each detection which of the distinct states it has, and these [P, 10] as packed bits.

    A few thousand states are all that half a million detections come to.
    """
    packed = np.concatenate([np.packbits(states, axis=1) for states in found], axis=0)  # [D, 10]
    numbers = np.zeros((len(packed), 2, 8), np.uint8)
    numbers[:, :, :5] = packed.reshape(-1, 2, 5)  # 40 bits of what is right, 40 of what counts
    right, counted = numbers.view(np.uint64)[..., 0].T
    _, right = np.unique(right, return_inverse=True)
    _, counted = np.unique(counted, return_inverse=True)
    both = right * (int(counted.max(initial=0)) + 1) + counted
    _, first, states = np.unique(both, return_index=True, return_inverse=True)
    return _smallest(states), packed[first]


def _truth(classes: Sequence[_Class]) -> dict[str, NDArray[Any]]:
    labels = np.repeat(np.arange(len(classes)), [len(truth) for *_, truth in classes])
    rows = np.concatenate([truth for *_, truth in classes])
    return {
        "truth_classes": _smallest(labels),
        "truth_images": _smallest(rows[:, 0]),
        "truth_counts": np.ascontiguousarray(_smallest(rows[:, 1:])),
    }


def _truth_digest(truth: Annotations, image_ids: Sequence[int]) -> str:
    """Over every box of the images that counts in the evaluation, whatever its file is called and says besides."""
    digest = hashlib.sha256()
    if truth.as_is is not None:
        used = np.isin(truth.as_is.whole[:, 1], np.array(image_ids, np.int64))
        digest.update(truth.as_is.whole[used].tobytes() + truth.as_is.flat[used].tobytes())
        return digest.hexdigest()
    positions = {int(image_id): index for index, image_id in enumerate(truth.image_ids)}
    for image_id in image_ids:
        rows = truth.rows(positions[image_id])
        digest.update(np.array([image_id, rows.stop - rows.start], np.int64).tobytes())
        for part in (truth.boxes, truth.labels, truth.areas, truth.crowd, truth.ignore):
            digest.update(part[rows].tobytes())
    return digest.hexdigest()


def _joined(parts: Iterable[Any], dtype: Any = np.int64) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(part, dtype) for part in parts)])


def _smallest(values: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers, 0 and above, in two bytes if they fit, else in four."""
    return values.astype(np.uint16 if values.max(initial=0) < 2**16 else np.uint32)


def _single(scores: NDArray[np.float64]) -> NDArray[Any]:
    """A detector's scores are single precision; any others are kept whole."""
    short = scores.astype(np.float32)
    return short if np.array_equal(short, scores) else scores


def _saved(arrays: dict[str, NDArray[Any]], described: dict[str, Any]) -> bytes:
    content: bytes = safetensors.numpy.save(
        {name: np.ascontiguousarray(values) for name, values in arrays.items()}, metadata={KEY: json.dumps(described)}
    )
    return content
