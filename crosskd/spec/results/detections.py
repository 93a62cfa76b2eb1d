"""The form of files of detections, for whoever writes them and whoever reads them. Imports no torch and no numpy.

Detections are a COCO results list, compressed by gzip: `image_id` and `category_id` are those of the annotation file,
`bbox` is x, y, width, height in pixels of the original image, `score` has nine digits, which tell single precision
numbers apart.

A file of samples (`samples-student-00001200.json.gz`) has an object instead, compressed as well: `format`, `model`,
`step`, `score` (where F1 is highest over all validation images; null: nothing was right), `images` (the ids of the
sample images that were evaluated) and `detections`, the list for these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

FORMAT = 1
SAMPLES = 32  # images
IOU = 0.5  # from which on a detection has found a box
MOST_BYTES = 128 * 2**20  # of a file, compressed: ten times what COCO's validation split leaves
MOST_TEXT = 2**30  # bytes of its text
DIGITS = 3  # decimals of a pixel


def sample_ids(ids: Iterable[int]) -> list[int]:
    """Up to `SAMPLES` of the ids of a split, evenly spread over them in order, the first and the last among them.

    They follow from the ids alone, so that all jobs on a split have the same.
    """
    ordered = sorted(ids)
    if len(ordered) <= SAMPLES:
        return ordered
    return [ordered[round(place * (len(ordered) - 1) / (SAMPLES - 1))] for place in range(SAMPLES)]


def best_score(scores: Sequence[float], right: Sequence[bool], boxes: int) -> float | None:
    """The least score of a detection that counts, such that F1 is highest; of several such scores the highest.

    `scores` fall, `right` says which detections have found one of the `boxes`; detections that count neither way are
    not among them. F1 is 2 TP / (detections + boxes), of all classes together. None: nothing is right.
    """
    best, chosen, found = 0.0, None, 0
    last = len(scores) - 1
    for place, (score, is_right) in enumerate(zip(scores, right, strict=True)):
        found += bool(is_right)
        if place < last and scores[place + 1] == score:  # equal scores are in or out together
            continue
        if (value := 2 * found / (place + 1 + boxes)) > best:
            best, chosen = value, score
    return chosen


def score_text(score: float) -> str:
    """A score as files have it."""
    return f"{score:.9g}"
