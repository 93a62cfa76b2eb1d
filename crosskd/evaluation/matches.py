"""What an evaluation has matched, image by image, as one small file: what comparing two models needs.

`report/matches.py` reads it, and `report/weighted_ap.py` computes AP from it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from crosskd.data.annotations import Annotations
from crosskd.evaluation.matching import Judged
from crosskd.spec.results.files import MATCHES_FILES
from crosskd.spec.results.matches import BITS, FORMAT, IOUS, KEY
from crosskd.structures import Evaluation
from crosskd.weights.files import File, write_bytes


def packed_matches(judged: Judged, limits: Sequence[int], truth: Annotations, image_ids: Sequence[int]) -> bytes:
    """The file's content, of detections judged up to COCO's `limits`; `image_ids` in the order that it was done in."""
    states, bits = _distinct(judged)
    arrays = {
        "image_ids": np.array(image_ids, np.int64),
        "starts": judged.starts,
        "images": _smallest(judged.images),
        "scores": _single(judged.scores),
        "states": states,
        "state_bits": bits,
        "truth_classes": _smallest(judged.truth_labels),
        "truth_images": _smallest(judged.truth_images),
        "truth_counts": _smallest(judged.truth_counts),
    }
    described = {
        "format": FORMAT,
        "classes": list(truth.classes),
        "ious": list(IOUS),
        "max_detections": list(limits),
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


def _distinct(judged: Judged) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """For each detection which of the distinct states it has, and these [P, 10] as packed bits.

    A few thousand states are all that half a million detections come to.
    """
    kinds = [kind.reshape(len(kind), BITS // 2) for kind in (judged.right, judged.counted)]
    packed = np.concatenate([np.packbits(kind, axis=1) for kind in kinds], axis=1)  # [D, 10]
    numbers = np.zeros((len(packed), 2, 8), np.uint8)
    numbers[:, :, :5] = packed.reshape(-1, 2, 5)  # 40 bits of what is right, 40 of what counts
    right, counted = numbers.view(np.uint64)[..., 0].T
    _, right = np.unique(right, return_inverse=True)
    _, counted = np.unique(counted, return_inverse=True)
    both = right * (int(counted.max(initial=0)) + 1) + counted
    _, first, states = np.unique(both, return_index=True, return_inverse=True)
    return _smallest(states), packed[first]


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
