from __future__ import annotations

import contextlib
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crosskd.evaluation.average_precision import average_precision
from crosskd.evaluation.detections import packed_detections, packed_samples
from tests.support.matches import detections, truth

ORDER = [1, 4, 7, 10, 13, 16, 19, 22]


def unpacked(content: bytes) -> Any:
    return json.loads(gzip.decompress(content))


@pytest.mark.parametrize("seed", [2, 3])
def test_pycocotools_finds_the_same_numbers_in_the_file(tmp_path: Path, seed: int) -> None:
    known = truth(tmp_path, seed, as_is=True)
    found = detections(known, seed + 1, ties=False)
    content = packed_detections(found, ORDER, known.category_ids)
    assert content == packed_detections(found, ORDER, known.category_ids)  # nothing of when it was made
    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCO(str(known.path))
        result = COCOeval(expected, expected.loadRes(unpacked(content)), "bbox")
        result.evaluate()
        result.accumulate()
        result.summarize()
    assert result.stats.tolist() == pytest.approx(list(average_precision(known, found).metrics.values()), abs=1e-6)


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    known = truth(tmp_path, 3)
    found = detections(known, 4)
    whole = len(unpacked(packed_detections(found, ORDER, known.category_ids)))
    one = found[1]
    boxes = one.boxes.copy()
    boxes[0, 2] = np.nan
    broken = found | {1: replace(one, boxes=boxes)}
    assert len(unpacked(packed_detections(broken, ORDER, known.category_ids))) == whole - 1


def test_samples_say_what_they_are_and_have_the_same_boxes(tmp_path: Path) -> None:
    known = truth(tmp_path, 3)
    found = detections(known, 4)
    result = average_precision(known, found)
    content = packed_samples(found, [4, 22], known.category_ids, model="teacher", step=9, score=result.score)
    told = unpacked(content)
    every = unpacked(packed_detections(found, ORDER, known.category_ids))
    assert told.pop("detections") == [entry for entry in every if entry["image_id"] in (4, 22)] != []
    assert told == {"format": 1, "model": "teacher", "step": 9, "score": result.score, "images": [4, 22]}
    assert unpacked(packed_samples(found, [], [1, 2, 3], model="student", step=0, score=None))["score"] is None
