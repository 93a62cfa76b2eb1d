"""The API's check of annotation files, held against what the training's loader refuses."""

from __future__ import annotations

import copy
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.services.submission.coco_check import MAX_FAULTS, VERSION, CocoCheck, Report
from crosskd.data.annotations import read_annotations
from crosskd.errors import DataError

GOOD: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": 1, "file_name": "a.png", "width": 64, "height": 48},
        {"id": 2, "file_name": "sub/b.png", "width": 640.0, "height": 480},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3.5, 4], "area": 14, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [-5, 2, 30, 0]},
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": [900, 2, 30, 4], "iscrowd": 1, "segmentation": [[1.5]]},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
}


def check(document: Any) -> Report:
    text = document if isinstance(document, str) else json.dumps(document)
    return CocoCheck().run(io.BytesIO(text.encode(errors="surrogatepass")))


def refused_by_the_loader(document: Any) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        try:
            read_annotations(path)
        except DataError:
            return True
        return False


def spoilt(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    change(document)
    return document


def test_a_good_file() -> None:
    assert check(GOOD) == {
        "version": VERSION,
        "classes": ["cat", "dog"],  # by ascending id
        "images": 2,
        "annotations": 3,
        "boxes": 2 - 1,  # one is crowd, one is empty
        "faults": [],
        "fault_count": 0,
    }
    assert not refused_by_the_loader(GOOD)


SPOILT = {
    "no images": (lambda d: d.pop("images"), "", "'images' is missing"),
    "no annotations": (lambda d: d.pop("annotations"), "", "'annotations' is missing"),
    "no categories": (lambda d: d.pop("categories"), "", "'categories' is missing"),
    "images of a wrong type": (lambda d: d.update(images={}), "images", "must be an array"),
    "empty images": (lambda d: d.update(images=[], annotations=[]), "images", "is empty"),
    "an image that is no object": (lambda d: d["images"].append(3), "images[2]", "must be an object"),
    "an image without a width": (lambda d: d["images"][1].pop("width"), "images[1].width", "is missing"),
    "an image of no height": (lambda d: d["images"][0].update(height=0), "images[0].height", "1 to 1000000, not 0"),
    "a path out": (lambda d: d["images"][0].update(file_name="../a.png"), "images[0].file_name", "stay in it"),
    "an absolute path": (lambda d: d["images"][0].update(file_name="/etc/passwd"), "images[0].file_name", "relative"),
    "half a surrogate": (lambda d: d["images"][0].update(file_name="\ud800"), "images[0].file_name", "must be text"),
    "an image twice": (lambda d: d["images"].append(d["images"][0]), "images[2].id", "1 stands in the file twice"),
    "an annotation twice": (lambda d: d["annotations"][2].update(id=1), "annotations[2].id", "twice"),
    "a category twice": (lambda d: d["categories"].append({"id": 7, "name": "cow"}), "categories[2].id", "twice"),
    "a name twice": (lambda d: d["categories"][1].update(name="dog"), "categories[1].name", "'dog' stands"),
    "a name that is a number": (lambda d: d["categories"][1].update(name=5), "categories[1].name", "not 5"),
    "an id that is text": (lambda d: d["annotations"][0].update(id="1"), "annotations[0].id", 'not "1"'),
    "an id that is true": (lambda d: d["annotations"][0].update(id=True), "annotations[0].id", "not true"),
    "an unknown image": (lambda d: d["annotations"][1].update(image_id=9), "annotations[1].image_id", "with id 9"),
    "an unknown category": (
        lambda d: d["annotations"][1].update(category_id=9),
        "annotations[1].category_id",
        "no category with id 9",
    ),
    "NaN": (lambda d: d["annotations"][2].update(bbox=[1, float("nan"), 1, 1]), "annotations[2].bbox", "NaN"),
    "infinity": (lambda d: d["annotations"][2].update(bbox=[1, 1, float("inf"), 1]), "annotations[2].bbox", "Inf"),
    "a huge integer": (lambda d: d["annotations"][2].update(bbox=[1, 1, 10**400, 1]), "annotations[2].bbox", "finite"),
    "a negative box": (lambda d: d["annotations"][1].update(bbox=[1, 1, -3, 5]), "annotations[1].bbox", "negative"),
    "three numbers": (lambda d: d["annotations"][1].update(bbox=[1, 1, 3]), "annotations[1].bbox", "four"),
    "no box": (lambda d: d["annotations"][1].pop("bbox"), "annotations[1].bbox", "is missing"),
    "a NaN area": (lambda d: d["annotations"][1].update(area=float("nan")), "annotations[1].area", "NaN"),
    "a crowd of two": (lambda d: d["annotations"][1].update(iscrowd=2), "annotations[1].iscrowd", "0 or 1, not 2"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_each_fault_has_its_place_and_the_loader_refuses_it_too(name: str) -> None:
    change, where, detail = SPOILT[name]
    document = spoilt(change)
    report = check(document)
    assert report["fault_count"] == 1
    assert report["faults"][0]["where"] == where
    assert detail in report["faults"][0]["detail"]
    assert refused_by_the_loader(document)


@pytest.mark.parametrize("text", ["", "[]", "3", '"x"', "{", '{"images": [', '{"images": [}', "[" * 100_000, "\x00"])
def test_what_is_no_coco_file_at_all(text: str) -> None:
    assert check(text)["fault_count"] >= 1
    assert refused_by_the_loader(text)


def test_sections_may_come_in_any_order() -> None:
    document = {key: GOOD[key] for key in ("categories", "annotations", "images")}
    assert check(document)["fault_count"] == 0
    assert check({key: GOOD[key] for key in ("annotations", "images", "categories")})["fault_count"] == 0
    late = spoilt(lambda d: d["annotations"][0].update(image_id=5))
    report = check({key: late[key] for key in ("annotations", "images", "categories")})
    assert [fault["where"] for fault in report["faults"]] == ["annotations[0].image_id"]


def test_only_the_first_faults_are_spelt_out() -> None:
    report = check(spoilt(lambda d: d["images"].extend([None] * 100)))
    assert (len(report["faults"]), report["fault_count"]) == (MAX_FAULTS, 100)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from(
        [2**63, -(2**63), 10**400, 0.0, 1.0, 2.5, 1e7, float("nan"), float("inf"), "", "a/../b", "..", "x"]
    ),
    st.sampled_from([[], {}, [1, 2, 3, 4], [0, 0, 0.0, 1], [1, 2, 3, "4"], [1, 2, True, 4], [1, 2, -3, 4], "a\x00b"]),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_refuses_exactly_what_the_loader_refuses(data: st.DataObject) -> None:
    document = copy.deepcopy(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        section = data.draw(st.sampled_from(["images", "annotations", "categories"]))
        if not isinstance(document.get(section), list) or not document[section]:
            continue
        entry = data.draw(st.sampled_from(document[section]))
        action = data.draw(st.sampled_from(["set", "set", "drop", "append", "replace"]))
        match action:
            case "set" | "drop" if isinstance(entry, dict) and entry:
                key = data.draw(st.sampled_from([*sorted(entry), "ignore"]))
                entry.pop(key, None)
                if action == "set":
                    entry[key] = data.draw(ODD)
            case "append":
                document[section].append(copy.deepcopy(entry))
            case "replace":
                document[section] = data.draw(ODD)
    assert (check(document)["fault_count"] > 0) == refused_by_the_loader(document)
