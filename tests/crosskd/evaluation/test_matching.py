"""Every detection's fate, and what it comes to, against pycocotools to the bit: small splits full of awkward cases."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crosskd.evaluation import matching
from crosskd.evaluation.accumulation import RECALLS, accumulate
from crosskd.evaluation.matching import OVERLAPS, RANGES, Found, Judged, Truth, judge

IMAGES, CLASSES = 2, 3
# Few numbers, so that overlaps, scores and areas are often equal; boxes without width, height or both among them.
PLACES, SIDES, SCORES = [0.0, 0.0, 1.0, 2.0, 90.0], [10.0, 10.0, 11.0, 12.5, 0.0, 100.0], [0.125, 0.5, 0.75]
AREAS = [500.0, 500.0, 0.0, 32.0**2, 32.0**2 + 0.5, 96.0**2, 1e10, 2e10, -1.0]


def drawn(seed: int) -> tuple[list[Any], list[Any]]:
    """Boxes (place, box, area, crowd, set aside) and detections (place, box, score); a place: image and class."""
    draw = np.random.default_rng(seed)

    def box() -> tuple[float, ...]:
        return (*draw.choice(PLACES, 2).tolist(), *draw.choice(SIDES, 2).tolist())

    def place() -> tuple[int, int]:
        return int(draw.integers(IMAGES)), int(draw.choice(CLASSES, p=[0.8, 0.2, 0]) if draw.random() < 0.9 else 2)

    truth = [
        (place(), box(), float(draw.choice(AREAS)), *(draw.random(2) < 0.25).tolist())
        for _ in range(draw.integers(0, 14))
    ]
    found = [(place(), box(), float(draw.choice(SCORES))) for _ in range(draw.integers(0, 40))]
    return truth, [row if draw.random() < 0.9 else (row[0], broken(row[1]), row[2]) for row in found]


def broken(box: tuple[float, ...]) -> tuple[float, ...]:
    """As of a network that diverged."""
    x, y, width, height = box
    return (float("nan"), y, float("nan") if x else width, height)


class Reference(COCOeval):
    """Boxes that are set aside are ignored like crowds, which pycocotools alone does not offer."""

    def _prepare(self) -> None:
        super()._prepare()
        for own in self._gts.values():
            for box in own:
                box["ignore"] = bool(box["iscrowd"] or box["aside"])


def by_pycocotools(truth: list[Any], found: list[Any], first_id: int, limits: list[int]) -> COCOeval:
    boxes = [
        {"id": number, "image_id": image, "category_id": label, "bbox": [*box], "area": area}
        | {"iscrowd": int(crowd), "aside": aside}
        for number, ((image, label), box, area, crowd, aside) in enumerate(truth, start=first_id)
    ]
    detections = [
        {"id": number, "image_id": image, "category_id": label, "bbox": [*box], "area": box[2] * box[3]}
        | {"iscrowd": 0, "score": score}
        for number, ((image, label), box, score) in enumerate(found, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        result = Reference(_coco(boxes), _coco(detections), "bbox")
        result.params.maxDets = [*limits]
        result.evaluate()
        result.accumulate()
    return result


def _coco(annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    images, categories = ([{"id": number} for number in range(count)] for count in (IMAGES, CLASSES))
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def by_us(truth: list[Any], found: list[Any], first_id: int, most: int) -> Judged:
    places, flags = _integers([row[0] for row in truth]), np.array([row[3:] for row in truth], bool).reshape(-1, 2)
    return judge(
        Truth(
            images=places[:, 0],
            labels=places[:, 1],
            boxes=_boxes([row[1] for row in truth]),
            areas=np.array([row[2] for row in truth], float),
            crowd=flags[:, 0],
            ignored=flags.any(axis=1),
            nameless=np.arange(first_id, first_id + len(truth)) == 0,
        ),
        Found(
            *_integers([row[0] for row in found]).T,
            boxes=_boxes([row[1] for row in found]),
            scores=np.array([row[2] for row in found], float),
        ),
        classes=CLASSES,
        images=IMAGES,
        most=most,
    )


def _integers(rows: list[tuple[int, int]]) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, 2)


def _boxes(rows: list[tuple[float, ...]]) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 4)


def entries(result: COCOeval, label: int, area: int) -> list[tuple[int, dict[str, Any]]]:
    """Of the images that have anything of a class, as `COCOeval.accumulate` reads them."""
    first = (label * len(RANGES) + area) * IMAGES
    own = enumerate(result.evalImgs[first : first + IMAGES])
    return [(image, entry) for image, entry in own if entry is not None]


@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    first_id=st.sampled_from([1, 0, -3]),
    limits=st.sampled_from([[1, 10, 100], [1, 2, 3], [1, 10, 100, 300]]),
)
def test_every_detection_and_every_number_is_as_pycocotools_has_it(seed: int, first_id: int, limits: list[int]) -> None:
    """Crowds, boxes set aside, ranges of area to their very ends, equal overlaps and scores, boxes of no size and of no
    number, classes and images without boxes or detections, more detections than count, and an annotation whose id is 0.
    """
    truth, found = drawn(seed)
    theirs, ours = by_pycocotools(truth, found, first_id, limits), by_us(truth, found, first_id, limits[-1])
    for label in range(CLASSES):
        for area in range(len(RANGES)):
            own = entries(theirs, label, area)
            scores = np.concatenate([np.zeros(0), *(entry["dtScores"] for _, entry in own)])
            order, rows = np.argsort(-scores, kind="mergesort"), ours.rows(label)
            owners = np.repeat([image for image, _ in own], [len(entry["dtScores"]) for _, entry in own])
            assert ours.scores[rows].tolist() == scores[order].tolist()
            assert ours.images[rows].tolist() == owners[order].tolist()
            if len(scores):
                ignored = np.concatenate([entry["dtIgnore"] for _, entry in own], axis=1)[:, order]
                matched = np.concatenate([entry["dtMatches"] for _, entry in own], axis=1)[:, order] != 0
                assert np.array_equal(ours.counted[rows, area].T, ~ignored)
                assert np.array_equal(ours.right[rows, area].T, matched & ~ignored)
            told = [(image, np.count_nonzero(entry["gtIgnore"] == 0)) for image, entry in own if entry["gtIds"]]
            of_class = ours.truth_labels == label
            pairs = zip(ours.truth_images[of_class].tolist(), ours.truth_counts[of_class, area].tolist(), strict=True)
            assert [*pairs] == told
    precision, recall = accumulate(ours, limits)
    assert np.array_equal(precision, theirs.eval["precision"][..., -1])
    assert np.array_equal(recall, theirs.eval["recall"])


def test_nothing_with_nothing() -> None:
    ours = by_us([], [], 1, 100)
    precision, recall = accumulate(ours, [1, 10, 100])
    assert len(ours.scores) == len(ours.truth_labels) == 0
    assert {*precision.ravel(), *recall.ravel()} == {-1.0}


def test_thresholds_are_those_of_pycocotools() -> None:
    theirs = COCOeval(iouType="bbox").params
    assert OVERLAPS.tolist() == theirs.iouThrs.tolist()
    assert RANGES.tolist() == theirs.areaRng
    assert RECALLS.tolist() == theirs.recThrs.tolist()


def test_pairs_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)

    def many(count: int, *rest: Any) -> list[Any]:
        return [
            ((0, int(draw.integers(3))), (*draw.integers(0, 9, 2).tolist(), 30.0, 30.0), *rest) for _ in range(count)
        ]

    truth, found = many(20, 900.0, False, False), many(60, 0.5)
    whole = by_us(truth, found, 1, 100)
    monkeypatch.setattr(matching, "_PAIRS", 7)
    pieces = by_us(truth, found, 1, 100)
    assert whole.right.any()
    assert np.array_equal(whole.right, pieces.right)
    assert np.array_equal(whole.counted, pieces.counted)
