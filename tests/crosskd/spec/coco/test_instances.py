"""What is refused of a COCO file, and where it is said to stand; by the training as by the rules."""

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

from crosskd.data.annotations import read_annotations
from crosskd.errors import DataError
from crosskd.spec.coco.fields import MAX_FAULTS
from crosskd.spec.coco.instances import Instances, read_instances

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


def check(document: Any) -> Instances:
    text = document if isinstance(document, str) else json.dumps(document)
    return read_instances(io.BytesIO(text.encode(errors="surrogatepass")))


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
    found = check(GOOD)
    assert found.faults.count == 0
    assert [category.name for category in found.categories.values()] == ["cat", "dog"]  # by ascending id
    assert found.positions == {1: 0, 2: 1}
    assert found.names == ["a.png", "sub/b.png"]
    assert found.ids.tolist() == [1, 2, 3]
    assert found.flags.tolist() == [0, 0, 1]
    assert not refused_by_the_loader(GOOD)


SPOILT = {
    "no images": (lambda d: d.pop("images"), "", "'images' is missing"),
    "no annotations": (lambda d: d.pop("annotations"), "", "'annotations' is missing"),
    "no categories": (lambda d: d.pop("categories"), "", "'categories' is missing"),
    "an empty list of categories": (lambda d: d.update(categories=[], annotations=[]), "categories", "is empty"),
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
    "a name twice": (
        lambda d: d["categories"][1].update(name="dog"),
        "categories[1].name",
        "'dog' is the name of categories[0] too, and both have boxes (ids 7, 3)",
    ),
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
    "a box that is no list": (lambda d: d["annotations"][1].update(bbox={"x": 1}), "annotations[1].bbox", "four"),
    "a negative area": (lambda d: d["annotations"][1].update(area=-1), "annotations[1].area", "from 0, not -1"),
    "an ignore that is text": (lambda d: d["annotations"][1].update(ignore="y"), "annotations[1].ignore", "0 or 1"),
    "an id beyond 64 bits": (lambda d: d["images"].append({**d["images"][0], "id": 2**70}), "images[2].id", "64-bit"),
    "an id between integers": (lambda d: d["annotations"][1].update(id=1.5), "annotations[1].id", "not 1.5"),
    "a float id that is inexact": (lambda d: d["annotations"][1].update(id=1e16), "annotations[1].id", "64-bit"),
    "a width between integers": (lambda d: d["images"][0].update(width=64.5), "images[0].width", "not 64.5"),
    "a gigantic width": (lambda d: d["images"][0].update(width=10**9), "images[0].width", "1 to 1000000"),
    "a file name of nothing": (lambda d: d["images"][0].update(file_name=""), "images[0].file_name", "must be text"),
    "a NUL in a file name": (lambda d: d["images"][0].update(file_name="a\0"), "images[0].file_name", "must be text"),
    "a detour out": (lambda d: d["images"][0].update(file_name="x/../../a"), "images[0].file_name", "stay in it"),
    "a NaN area": (lambda d: d["annotations"][1].update(area=float("nan")), "annotations[1].area", "NaN"),
    "a crowd of two": (lambda d: d["annotations"][1].update(iscrowd=2), "annotations[1].iscrowd", "0 or 1, not 2"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_each_fault_has_its_place_and_the_loader_refuses_it_too(name: str) -> None:
    change, where, detail = SPOILT[name]
    document = spoilt(change)
    faults = check(document).faults
    assert faults.count == 1
    assert faults.first[0]["where"] == where
    assert detail in faults.first[0]["detail"]
    assert faults.first[0]["remedy"]
    assert refused_by_the_loader(document)


NO_COCO = ["", "[]", "3", "null", '"x"', "{", '{"images": [', '{"images": [}', "[" * 100_000, "\x00", '{"images": 1e}']


@pytest.mark.parametrize("text", [*NO_COCO, '{"images": [], "images": []}', '{"images": ' + "9" * 5000 + "}"])
def test_what_is_no_coco_file_at_all(text: str) -> None:
    assert check(text).faults.count >= 1
    assert refused_by_the_loader(text)


def test_sections_may_come_in_any_order() -> None:
    document = {key: GOOD[key] for key in ("categories", "annotations", "images")}
    assert check(document).faults.count == 0
    assert check({key: GOOD[key] for key in ("annotations", "images", "categories")}).faults.count == 0
    late = spoilt(lambda d: d["annotations"][0].update(image_id=5))
    found = check({key: late[key] for key in ("annotations", "images", "categories")})
    assert [fault["where"] for fault in found.faults.first] == ["annotations[0].image_id"]


def test_an_unknown_id_is_one_fault_however_many_boxes_name_it() -> None:
    (fault,) = check(spoilt(lambda d: [each.update(category_id=9) for each in d["annotations"]])).faults.first
    assert fault["where"] == "annotations[0].category_id"
    assert fault["detail"] == "there is no category with id 9, which 3 annotations name"


def test_ids_may_be_written_as_floats() -> None:
    def floats(document: dict[str, Any]) -> None:
        for section in ("images", "annotations", "categories"):
            for entry in document[section]:
                entry.update({key: float(value) for key, value in entry.items() if key.endswith("id")})

    found = check(spoilt(floats))
    assert found.faults.count == 0
    assert found.positions == {1: 0, 2: 1}
    assert list(found.categories) == [3, 7]
    assert found.labels.tolist() == [7, 3, 3]


@pytest.mark.parametrize("position", [0, 2])
def test_of_categories_with_one_name_those_without_boxes_are_left_out(position: int) -> None:
    root = {"id": 0, "name": "dog", "supercategory": "none"}
    found = check(spoilt(lambda d: d["categories"].insert(position, root)))
    assert found.faults.count == 0
    assert list(found.categories) == [3, 7]
    assert [category.id for category in found.unused] == [0]


def test_categories_can_be_read_alone() -> None:
    document = {"categories": [{"id": 0, "name": "dog"}, *GOOD["categories"]], "annotations": [{"category_id": 7}, 3]}
    found = read_instances(io.BytesIO(json.dumps(document).encode()), categories_alone=True)
    assert found.faults.count == 0
    assert list(found.categories) == [3, 7]


def test_only_the_first_faults_are_spelt_out() -> None:
    faults = check(spoilt(lambda d: d["images"].extend([None] * 100))).faults
    assert (len(faults.first), faults.count) == (MAX_FAULTS, 100)


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
def test_whatever_stands_there_is_read_or_refused_in_words(data: st.DataObject) -> None:
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
                    entry[key] = copy.deepcopy(data.draw(ODD))
            case "append":
                document[section].append(copy.deepcopy(entry))
            case "replace":
                document[section] = copy.deepcopy(data.draw(ODD))
    assert refused_by_the_loader(document) or check(document).faults.count == 0
