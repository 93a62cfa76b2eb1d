"""COCO's layouts: folders of images, ids and categories of two files, and boxes of another form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crosskd.errors import ConfigError, DataError
from tests.support.dataset_folders import lay
from tests.support.imports import boxes, counts, imported


def split(
    name: str, categories: dict[int, str], image: int = 1, box: list[float] | None = None, number: int = 1
) -> str:
    """A file of one image with boxes of each category."""
    bbox = [4, 4, 20, 20] if box is None else box
    return json.dumps(
        {
            "images": [{"id": image, "file_name": name, "width": 64, "height": 48}],
            "annotations": [
                {"id": at * 100 + id_, "image_id": image, "category_id": id_, "bbox": bbox}
                for at in range(number)
                for id_ in categories
            ],
            "categories": [{"id": id_, "name": name} for id_, name in categories.items()],
        }
    )


CAT, DOG_CAT = {3: "cat"}, {3: "dog", 4: "cat"}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        (("train.json", "images/{}"), ("val.json", "images/{}"), None),
        (("annotations/instances_train2017.json", "train2017/{}"),
         ("annotations/instances_val2017.json", "val2017/{}"), None),
        (("train/_annotations.coco.json", "train/{}"), ("valid/_annotations.coco.json", "valid/{}"),
         ("test/_annotations.coco.json", "test/{}")),
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, train: tuple[str, str], val: tuple[str, str], test: Any) -> None:
    files: dict[str, str | bytes | None] = {}
    splits = {"train": train, "val": val, **({"test": test} if test else {})}
    for name, (file, images) in splits.items():
        files[file] = split(f"{name}.png", CAT)
        files[images.format(f"{name}.png")] = None
    result = imported(lay(tmp_path / "source", files), tmp_path / "to")
    assert result.report.faults == []
    assert [each.name for each in result.report.splits] == list(splits)
    ids = []
    for name in splits:
        content = json.loads((tmp_path / "to" / f"{name}.json").read_text())
        assert (Path(result.images) / content["images"][0]["file_name"]).name == f"{name}.png"
        ids.append(content["images"][0]["id"])
    assert ids == list(range(1, len(splits) + 1))  # all were 1


def test_categories_of_two_files_are_put_together_by_their_names(tmp_path: Path) -> None:
    files = {"train.json": split("t.png", CAT, image=7), "val.json": split("v.png", DOG_CAT, image=9)}
    result = imported(lay(tmp_path / "source", files | {"images/t.png": None, "images/v.png": None}), tmp_path / "to")
    assert [(entry.id, entry.name) for entry in result.report.classes] == [(3, "cat"), (4, "dog")]
    contents = [json.loads((tmp_path / "to" / f"{name}.json").read_text()) for name in ("train", "val")]
    assert contents[0]["categories"] == contents[1]["categories"]
    assert [content["images"][0]["id"] for content in contents] == [7, 9]
    assert {label for label, _ in boxes(tmp_path / "to" / "val.json")["v.png"]} == {"cat", "dog"}


def test_boxes_of_another_form_are_told_before_they_are_learnt(tmp_path: Path) -> None:
    corners = [30.0, 20.0, 60.0, 40.0]
    files = {"train.json": split("t.png", CAT, box=corners, number=30), "images/t.png": None}
    with pytest.raises(DataError, match=r"can only be corners x1, y1, x2, y2"):
        imported(lay(tmp_path / "certain", files), tmp_path / "to", split={})
    few = {"train.json": split("t.png", CAT, box=corners, number=4), "val.json": split("v.png", CAT, image=2)}
    source = lay(tmp_path / "few", few | {"images/t.png": None, "images/v.png": None})
    assert counts(imported(source, tmp_path / "to").report)["wrong_form"] == 4


def test_images_are_not_looked_for_outside_of_the_source(tmp_path: Path) -> None:
    lay(tmp_path, {"source/train.json": split("t.png", CAT), "t.png": None, "images/t.png": None})
    with pytest.raises(ConfigError, match=r"lies? "):
        imported(tmp_path / "source", tmp_path / "to", split={})
    with pytest.raises(ConfigError, match="there is no folder"):
        imported(tmp_path / "source", tmp_path / "to", split={}, images=str(tmp_path / "gone"))


def test_what_stands_there_twice_is_taken_once(tmp_path: Path) -> None:
    content = json.loads(split("t.png", {3: "cat", 4: "dog", 5: "cat"}))
    content["images"].append({**content["images"][0], "id": 2})
    source = lay(tmp_path / "source", {"train.json": json.dumps(content), "images/t.png": None, "images/v.png": None})
    (source / "val.json").write_text(split("v.png", CAT))
    report = imported(source, tmp_path / "to").report
    assert counts(report) == {"name_twice": 1, "unknown_class": 1, "same_name": 1}
    assert [entry.name for entry in report.classes] == ["cat", "dog"]
    # The same image in both files: divided anew, it is in one split.
    (source / "val.json").write_text(split("t.png", CAT, image=9))
    content["images"].append({"id": 3, "file_name": "v.png", "width": 64, "height": 48})
    (source / "train.json").write_text(json.dumps(content))
    assert imported(source, tmp_path / "leak").report.duplicates.leaks == 1
    report = imported(source, tmp_path / "anew", split={"validation": 0.5, "seed": 1}).report
    assert (report.duplicates.leaks, counts(report)["name_twice"]) == (0, 2)
