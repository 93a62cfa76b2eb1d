"""Two versions of a data set: what differs, image by image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from crosskd.datasets.compare import compare_folders
from crosskd.errors import DataError
from tests.support.crosskd_command import run
from tests.support.imports import BCCD, imported


def test_what_was_changed_is_told_and_nothing_else(tmp_path: Path) -> None:
    imported(BCCD, tmp_path / "a")
    copy = shutil.copytree(BCCD, tmp_path / "copy")
    content = {split: json.loads((copy / f"{split}.json").read_text()) for split in ("train", "val")}
    images, boxes = content["train"]["images"], content["train"]["annotations"]
    names = [image["file_name"] for image in images]
    gone, moved, altered, relabelled = images[:4]
    content["train"]["images"] = images[2:]
    content["train"]["annotations"] = [box for box in boxes if box["image_id"] not in (gone["id"], moved["id"])]
    content["val"]["images"].append({**moved, "id": 9000})
    content["val"]["annotations"] += [
        {**box, "id": 90_000 + box["id"], "image_id": 9000} for box in boxes if box["image_id"] == moved["id"]
    ]
    next(box for box in boxes if box["image_id"] == relabelled["id"])["bbox"][2] -= 1
    for each in content.values():
        each["categories"].append({"id": 50, "name": "other"})
    for split, each in content.items():
        (copy / f"{split}.json").write_text(json.dumps(each))
    path = copy / "images" / altered["file_name"]
    path.write_bytes(path.read_bytes() + b"\0")
    imported(copy, tmp_path / "b")
    found = compare_folders(tmp_path / "a", tmp_path / "b")
    assert not found.same
    assert found.classes_added == ["other"]
    assert found.images is not None
    assert {each.what: [image.file_name for image in each.first] for each in found.images} == {
        "removed": [names[0]],
        "moved": [names[1]],
        "content": [names[2]],
        "boxes": [names[3]],
    }
    assert {change.name: (change.before, change.after) for change in found.splits}["train images"] == (21, 19)
    # `unlisted_image`: the file that was taken out of the annotations lies there still.
    assert [change.name for change in found.faults] == ["unlisted_image"]
    told = run("http://127.0.0.1:1", "datasets", "compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert told.returncode == 0, told.stderr
    assert f"images, moved: 1: val:{names[1]}" in told.stdout
    same = run("http://127.0.0.1:1", "datasets", "compare", str(tmp_path / "a"), str(tmp_path / "a"), "--json")
    assert json.loads(same.stdout)["same"] is True


def test_a_folder_that_no_import_has_written_is_refused(tmp_path: Path) -> None:
    imported(BCCD, tmp_path / "a")
    with pytest.raises(DataError, match="cannot be read"):
        compare_folders(BCCD, tmp_path / "a")
    (tmp_path / "a" / "report.json").write_text('{"digest": 3}')
    with pytest.raises(DataError, match="not what an import writes"):
        compare_folders(tmp_path / "a", tmp_path / "a")
