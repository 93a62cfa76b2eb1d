from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from crosskd.evaluation.average_precision import average_precision
from crosskd.spec.results.matches import KEY
from report.matches import BrokenMatches, read_matches
from tests.support.matches import CLASSES, detections, truth

Change = Callable[[dict[str, Any], dict[str, Any]], None]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    known = truth(tmp_path_factory.mktemp("truth"), 3)
    packed = average_precision(known, detections(known, 4)).matches
    assert packed is not None
    return packed


def described(content: bytes) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    told: dict[str, Any] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][KEY])
    return told


def changed(content: bytes, change: Change) -> bytes:
    arrays, told = safetensors.numpy.load(content), described(content)
    change(arrays, told)
    return safetensors.numpy.save(arrays, metadata={KEY: json.dumps(told)})


def test_a_file_says_what_was_measured(content: bytes) -> None:
    matches = read_matches(content)
    assert matches.classes == CLASSES
    assert matches.image_ids.tolist() == [1, 4, 7, 10, 13, 16, 19, 22]
    assert matches.max_detections == (1, 10, 100)
    assert not matches.as_is


def test_a_detection_takes_eight_bytes(content: bytes) -> None:
    arrays = safetensors.numpy.load(content)
    count = len(arrays["images"])
    assert sum(arrays[name].nbytes for name in ("images", "scores", "states")) == 8 * count
    assert len(arrays["state_bits"]) < count  # each of the states once


def test_the_digest_is_of_what_counts_in_the_ground_truth(tmp_path: Path) -> None:
    def digest(change: Callable[[str], str] = str, *, as_is: bool = False) -> str:
        known = truth(tmp_path, 3)
        path = known.path
        path.write_text(change(path.read_text()))
        from crosskd.data.annotations import read_annotations

        known = read_annotations(path, as_is=as_is)
        packed = average_precision(known, detections(known, 4)).matches
        assert packed is not None
        return read_matches(packed).truth_sha256

    same = digest()
    assert digest(lambda text: text.replace(".png", ".jpg")) == same
    assert digest(lambda text: text.replace('"iscrowd": 0', '"iscrowd": 1', 1)) != same
    assert digest(as_is=True) != same


def put(name: str, value: Any, place: int = -1) -> Change:
    def change(arrays: dict[str, Any], _told: dict[str, Any]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return change


def tell(name: str, value: Any) -> Change:
    return lambda _arrays, told: told.update({name: value})


def cut(name: str) -> Change:
    return lambda arrays, _told: arrays.update({name: arrays[name][:-1]})


def cast(name: str, kind: Any) -> Change:
    return lambda arrays, _told: arrays.update({name: arrays[name].astype(kind)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (tell("format", 2), "format"),
        (tell("classes", [1]), "classes"),
        (tell("classes", "cat"), "classes"),
        (tell("max_detections", [1, 10]), "max_detections"),
        (tell("max_detections", [10, 1, 100]), "max_detections"),
        (tell("ious", [0.5]), "ious"),
        (tell("truth_sha256", 7), "description"),
        (lambda _arrays, told: told.pop("as_is"), "missing"),
        (lambda arrays, _told: arrays.pop("scores"), "missing"),
        (cut("image_ids"), "cannot be right"),
        (put("image_ids", 1), "image_ids"),
        (put("images", 60_000), "images"),
        (put("states", 60_000), "states"),
        (put("starts", 60_000), "starts"),
        (put("starts", -5, 1), "starts"),
        (put("scores", 7.0), "scores"),
        (put("scores", np.nan, 0), "scores"),
        (put("state_bits", 0, slice(None)), ""),
        (put("truth_classes", 9), "truth_classes"),
        (put("truth_images", 900), "truth_images"),
        (cut("states"), "states"),
        (cut("truth_counts"), "truth_counts"),
        (cast("scores", int), "scores"),
        (cast("images", np.int64), "images"),
        (cast("state_bits", np.uint16), "state_bits"),
        (cast("truth_counts", float), "truth_counts"),
    ],
)
def test_what_cannot_be_right_is_refused(content: bytes, change: Change, said: str) -> None:
    broken = changed(content, change)
    if not said:  # nothing is right: that may be
        assert not read_matches(broken).right.any()
        return
    with pytest.raises(BrokenMatches, match=said):
        read_matches(broken)


def test_a_right_detection_that_does_not_count_is_refused(content: bytes) -> None:
    with pytest.raises(BrokenMatches, match="state_bits"):
        read_matches(changed(content, put("state_bits", [255] * 5 + [0] * 5, 0)))


@pytest.mark.parametrize("broken", [b"", b"\0" * 8, b"\xff" * 40, b"{}", safetensors.numpy.save({"a": np.zeros(2)})])
def test_other_files_are_refused(broken: bytes) -> None:
    with pytest.raises(BrokenMatches, match="does not say"):
        read_matches(broken)


def test_a_file_that_breaks_off_is_refused(content: bytes) -> None:
    with pytest.raises(BrokenMatches, match="safetensors"):
        read_matches(content[:-1])
