"""The matches of an evaluation: which detections were right, image by image, so that AP can be computed again.

They are read from a file that a worker has sent (`crosskd/evaluation/matches.py` writes it), so nothing in it is
believed before it is checked. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from crosskd.spec.results.matches import AREAS, BITS, FORMAT, IOUS, KEY, MOST_BYTES

MOST_IMAGES = 2**20
_COUNTS = {"starts": "iu", "images": "u", "scores": "f", "states": "u", "truth_classes": "u", "truth_images": "u"}


class BrokenMatches(ValueError):
    """A file that holds no matches, or none that this version can read."""


@dataclass(frozen=True)
class Matches:
    """I images, K classes, D detections in the order that COCO's evaluation sorts them by, class after class.

    Detections of class k are rows `starts[k]:starts[k + 1]`. `right` and `counted` are [P, 4, 10] of area and IoU: P
    states, one of which each detection has. What is not counted neither helps nor harms: it met a crowd, an ignored box
    or a box of another size, or it has another size itself. A wrong detection is counted and not right.
    """

    image_ids: NDArray[np.int64]  # [I]
    classes: tuple[str, ...]
    starts: NDArray[np.int64]  # [K + 1]
    images: NDArray[np.int64]  # [D] 0..I-1
    scores: NDArray[np.float64]  # [D]
    states: NDArray[np.int64]  # [D] 0..P-1
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    truth_classes: NDArray[np.int64]  # [G] a class and an image that has boxes of it
    truth_images: NDArray[np.int64]  # [G]
    truth_counts: NDArray[np.int64]  # [G, 4] boxes that are to be found, by area
    truth_sha256: str  # of the ground truth of these images
    max_detections: tuple[int, ...]
    as_is: bool

    def rows(self, label: int) -> slice:
        return slice(int(self.starts[label]), int(self.starts[label + 1]))

    def truth_of(self, label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Images [G'] that have boxes of the class, and how many of them by area [G', 4]."""
        of_class = self.truth_classes == label
        return self.truth_images[of_class], self.truth_counts[of_class]


def read_matches(content: bytes) -> Matches:
    """Raises `BrokenMatches`, saying what is wrong."""
    if len(content) > MOST_BYTES:
        raise BrokenMatches(f"it has {len(content)} bytes, the limit is {MOST_BYTES}")
    described = _metadata(content)
    try:
        arrays = safetensors.numpy.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BrokenMatches(f"it is no safetensors file: {error}") from None
    try:
        return _checked(arrays, described)
    except (KeyError, IndexError, TypeError) as error:
        raise BrokenMatches(f"a part is missing or of another kind: {error}") from None


def _metadata(content: bytes) -> dict[str, Any]:
    """What the file says of itself. Only as much is decoded as its header has."""
    try:
        size = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + size])["__metadata__"]
        described = json.loads(told[KEY])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BrokenMatches("it does not say that it holds matches") from None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise BrokenMatches(f"its format is not {FORMAT}, the one that this version reads")
    return described


def _checked(arrays: dict[str, NDArray[Any]], described: dict[str, Any]) -> Matches:
    classes, limits = described["classes"], described["max_detections"]
    _require(_all(classes, str), "classes")
    _require(_all(limits, int) and len(limits) >= 3 and limits == sorted(limits) and limits[0] > 0, "max_detections")
    _require(described["ious"] == list(IOUS), "ious")
    _require(isinstance(described["truth_sha256"], str) and isinstance(described["as_is"], bool), "its description")
    for name, kinds in _COUNTS.items():
        _require(arrays[name].ndim == 1 and arrays[name].dtype.kind in kinds, name)
    images, detections, labels = len(arrays["image_ids"]), len(arrays["images"]), len(classes)
    ids, bits, counts = arrays["image_ids"], arrays["state_bits"], arrays["truth_counts"]
    _require(ids.shape == (images,) and ids.dtype == np.int64 and images <= MOST_IMAGES, "image_ids")
    _require(len(np.unique(ids)) == images, "image_ids")
    _require(bits.shape == (len(bits), BITS // 8) and bits.dtype == np.uint8, "state_bits")
    starts = arrays["starts"].astype(np.int64)
    _require(len(starts) == labels + 1 and starts[0] == 0 and starts[-1] == detections, "starts")
    _require(bool((np.diff(starts) >= 0).all()), "starts")
    pairs = len(arrays["truth_classes"])
    _require(counts.shape == (pairs, len(AREAS)) and counts.dtype.kind == "u", "truth_counts")
    _require(len(arrays["truth_images"]) == pairs and not (counts > 2**31).any(), "truth_images")
    for name, size, below in (
        ("images", detections, images),
        ("states", detections, len(bits)),
        ("truth_classes", pairs, labels),
        ("truth_images", pairs, images),
    ):
        _require(len(arrays[name]) == size and bool((arrays[name] < below).all()), name)
    scores = arrays["scores"].astype(np.float64)
    _require(len(scores) == detections and _descending(scores, starts), "scores")
    states = np.unpackbits(bits, axis=1)[:, :BITS].reshape(-1, 2, len(AREAS), len(IOUS)).astype(bool)
    _require(not (states[:, 0] & ~states[:, 1]).any(), "state_bits")
    return Matches(
        image_ids=ids,
        classes=tuple(classes),
        starts=starts,
        images=arrays["images"].astype(np.int64),
        scores=scores,
        states=arrays["states"].astype(np.int64),
        right=states[:, 0],
        counted=states[:, 1],
        truth_classes=arrays["truth_classes"].astype(np.int64),
        truth_images=arrays["truth_images"].astype(np.int64),
        truth_counts=counts.astype(np.int64),
        truth_sha256=described["truth_sha256"],
        max_detections=tuple(limits),
        as_is=described["as_is"],
    )


def _all(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _descending(scores: NDArray[np.float64], starts: NDArray[np.int64]) -> bool:
    """Within each class; not a number among them is in no order."""
    rises = np.flatnonzero(~(scores[1:] <= scores[:-1])) + 1
    return bool(np.isin(rises, starts).all()) and not np.isnan(scores).any()


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenMatches(f"{what} cannot be right")
