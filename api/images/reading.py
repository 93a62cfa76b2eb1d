"""Files of detections as arrays. A worker has sent them, so nothing in them is believed before it is checked.

`crosskd/spec/results/detections.py` describes them.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosskd.spec.results.detections import FORMAT, MOST_TEXT
from report.image_matches import Found

MOST_DETECTIONS = 5_000_000
MOST_SAMPLES = 16 * 2**20  # bytes of text of a file of samples
CHUNK = 2**22  # bytes of text that are decoded at once
_END = b"},"  # of an entry that another one follows; entries have no text in them


class BrokenDetections(ValueError):
    """A file that holds no detections, or none that this version can read."""


class DetectionsFile(NamedTuple):
    """What a file says. `unknown` counts detections of images or categories that the annotation file has not.

    `images` (ids of those that were evaluated) and `score` (where F1 was highest over all images) are of samples alone.
    """

    found: Found
    unknown: int
    images: Sequence[int] = ()
    score: float | None = None


def read_detections(file: BinaryIO, places: Mapping[int, int], labels: Mapping[int, int]) -> DetectionsFile:
    """A results list of all images; `places` of images by their id, `labels` of categories.

    Raises `BrokenDetections`, saying what is wrong.
    """
    return _collected(_decoded(_text(file, MOST_TEXT)), places, labels)


def read_samples(file: BinaryIO, places: Mapping[int, int], labels: Mapping[int, int]) -> DetectionsFile:
    """The detections of sample images, as `read_detections`."""
    told = _json(b"".join(_text(file, MOST_SAMPLES)))
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise BrokenDetections(f"its format is not {FORMAT}, the one that this version reads")
    images, score, entries = (told.get(name) for name in ("images", "score", "detections"))
    if not isinstance(images, list) or not all(type(image) is int for image in images):
        raise BrokenDetections("its images are no ids")
    if score is not None and type(score) not in (int, float):
        raise BrokenDetections("its score is none")
    if not isinstance(entries, list):
        raise BrokenDetections("it has no list of detections")
    return _collected([entries], places, labels)._replace(images=images, score=score)


def _text(file: BinaryIO, most: int) -> Iterator[bytes]:
    """Out of a compressed file, which may come to far more than it has itself."""
    try:
        with gzip.GzipFile(fileobj=file) as source:
            while chunk := source.read(CHUNK):
                most -= len(chunk)
                if most < 0:
                    raise BrokenDetections("its text is too long")
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        raise BrokenDetections(f"it is no file of gzip, or cut off: {error}") from None


def _decoded(chunks: Iterator[bytes]) -> Iterator[list[Any]]:
    """The entries of a list, chunk by chunk: as objects they take ten times the memory of their text."""
    left = b""
    for chunk in chunks:
        text = left + chunk
        end = text.rfind(_END) + 1
        if end:
            yield _entries(text[:end] + b"]")
            left = b"[" + text[end + 1 :]
        else:
            left = text
        if len(left) > 2 * CHUNK:
            raise BrokenDetections("an entry is too long")
    yield _entries(left)


def _entries(text: bytes) -> list[Any]:
    entries = _json(text)
    if not isinstance(entries, list):
        raise BrokenDetections("it is no list")
    return entries


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenDetections(f"it is no JSON: {error}") from None


def _collected(
    parts: Iterator[list[Any]] | list[list[Any]], places: Mapping[int, int], labels: Mapping[int, int]
) -> DetectionsFile:
    whole, flat, unknown, count = [], [], 0, 0
    for entries in parts:
        count += len(entries)
        if count > MOST_DETECTIONS:
            raise BrokenDetections(f"it has more than {MOST_DETECTIONS:,} detections")
        ids, numbers = _arrays(entries)
        known = np.array(
            [(places.get(image, -1), labels.get(category, -1)) for image, category in ids], np.int64
        ).reshape(-1, 2)
        kept = (known >= 0).all(axis=1)
        unknown += int(np.count_nonzero(~kept))
        whole.append(known[kept])
        flat.append(numbers[kept])
    owners, values = np.concatenate(whole), np.concatenate(flat)
    return DetectionsFile(Found(owners[:, 0], owners[:, 1], values[:, :4], values[:, 4]), unknown)


def _arrays(entries: list[Any]) -> tuple[list[tuple[int, int]], NDArray[np.float64]]:
    """Ids of image and category, and rows of x, y, width, height, score."""
    try:
        ids = [(entry["image_id"], entry["category_id"]) for entry in entries]
        numbers = np.array([(*entry["bbox"], entry["score"]) for entry in entries], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise BrokenDetections("an entry lacks an id, a bbox or a score") from None
    numbers = numbers.reshape(-1, 5) if not entries else numbers
    if numbers.ndim != 2 or numbers.shape[1] != 5 or not np.isfinite(numbers).all() or (numbers[:, 2:4] < 0).any():
        raise BrokenDetections("an entry has a bbox or a score that is none")
    if not all(type(image) is int and type(category) is int for image, category in ids):
        raise BrokenDetections("an entry has an id that is no whole number")
    return ids, numbers
