"""Against pycocotools, by the matches that an evaluation leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crosskd.data.annotations import Annotations
from crosskd.evaluation.average_precision import average_precision
from report import image_matches
from report.image_matches import Found, Truth, match
from report.matches import read_matches
from tests.support.matches import Found as ByImage
from tests.support.matches import detections, truth


def expected_of(known: Annotations) -> Truth:
    images = np.repeat(np.arange(len(known)), np.diff(known.starts))
    boxes = known.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    return Truth(images, known.labels, boxes, known.crowd | known.ignore, known.crowd)


def found_of(known: Annotations, by_image: ByImage) -> Found:
    ones = [by_image[int(image)] for image in known.image_ids]
    boxes = np.concatenate([one.boxes for one in ones])
    boxes[:, 2:] -= boxes[:, :2]
    return Found(
        np.repeat(np.arange(len(ones)), [len(one.scores) for one in ones]),
        np.concatenate([one.labels for one in ones]),
        boxes,
        np.concatenate([one.scores for one in ones]),
    )


@pytest.mark.parametrize("seed", range(30))
def test_each_detection_is_judged_as_pycocotools_does(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_matches, "_PAIRS", 7)  # several rounds
    known = truth(tmp_path, seed, images=12)
    by_image = detections(known, seed + 1, ties=seed % 2 == 0)
    result = average_precision(known, by_image)
    assert result.matches is not None
    theirs = read_matches(result.matches)
    ours = match(expected_of(known), found_of(known, by_image), 100)
    assert ours.score == result.score
    for label in range(len(theirs.classes)):
        rows = theirs.rows(label)
        states = theirs.states[rows]
        wanted = zip(
            theirs.images[rows],
            theirs.scores[rows],
            theirs.right[states, 0, 0],
            theirs.counted[states, 0, 0],
            strict=True,
        )
        kept = ours.found.labels == label
        told = zip(ours.found.images[kept], ours.found.scores[kept], ours.right[kept], ours.counted[kept], strict=True)
        assert sorted(map(tuple, told)) == sorted(map(tuple, wanted))


def test_only_so_many_of_an_image_and_a_class_count(tmp_path: Path) -> None:
    known = truth(tmp_path, 3)
    found = found_of(known, detections(known, 4))
    ours = match(expected_of(known), found, 2).found
    keys = (ours.images * 3 + ours.labels).tolist()
    assert max(map(keys.count, keys)) == 2
    for key in set(keys):  # the best
        scores = found.scores[found.images * 3 + found.labels == key]
        assert sorted(scores)[-2:] == sorted(ours.scores[np.array(keys) == key])


def test_a_detection_finds_a_box_of_its_own_class_alone() -> None:
    box = np.array([[10.0, 10.0, 20.0, 20.0]])
    zero, no = np.zeros(1, np.int64), np.zeros(1, bool)
    expected = Truth(zero, zero, box, no, no)
    same = match(expected, Found(zero, zero, box, np.array([0.5])), 100)
    other = match(expected, Found(zero, zero + 1, box, np.array([0.5])), 100)
    assert (same.truth.tolist(), same.right.tolist(), same.score) == ([0], [True], 0.5)
    assert (other.truth.tolist(), other.right.tolist(), other.score) == ([-1], [False], None)


def test_nothing_is_matched_with_nothing() -> None:
    none, box = np.zeros(0, np.int64), np.zeros((0, 4))
    told = match(Truth(none, none, box, none.astype(bool), none.astype(bool)), Found(none, none, box, box[:, 0]), 100)
    assert (len(told.truth), told.score) == (0, None)
