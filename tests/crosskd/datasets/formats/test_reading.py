"""Which format a folder is in, and what is said where none or several are."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosskd.errors import ConfigError
from crosskd.spec.data.recognise import recognise
from tests.support.dataset_folders import lay, voc
from tests.support.imports import BCCD, imported


@pytest.mark.parametrize(
    ("files", "formats"),
    [
        ({"train.json": "{}", "val.json": "{}", "images/a.png": None, "README.txt": ""}, ["coco"]),
        ({"train/_annotations.coco.json": "{}", "valid/_annotations.coco.json": "{}", "README.dataset.txt": ""},
         ["coco"]),
        ({"data.yaml": "", "train/images/a.png": None}, ["yolo"]),
        ({"images/a.png": None, "labels/a.txt": ""}, ["yolo"]),
        ({"images/train/a.png": None, "labels/train/a.txt": ""}, ["yolo"]),
        ({"a.png": None, "a.txt": ""}, ["yolo"]),
        ({"Annotations/a.xml": "", "ImageSets/Main/train.txt": "", "JPEGImages/a.jpg": ""}, ["voc"]),
        ({"train/a.xml": "", "train/a.jpg": "", "README.txt": ""}, ["voc"]),
        ({"annotations/instances_train2017.json": "{}", "annotations/instances_val2017.json": "{}",
          "train2017/a.png": None, "val2017/a.png": None, "labels/train2017/a.txt": ""}, ["coco", "yolo"]),
        ({"a.png": None, "spec.yaml": "", "notes.txt": ""}, []),
    ],
)  # fmt: skip
def test_formats_are_told_by_names(tmp_path: Path, files: dict[str, str | bytes | None], formats: list[str]) -> None:
    assert recognise(lay(tmp_path, files)) == formats


def test_none_and_several_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data set of a known format"):
        imported(lay(tmp_path / "none", {"a.png": None}), tmp_path / "to")
    with pytest.raises(ConfigError, match="there is no data set"):
        imported(tmp_path / "gone", tmp_path / "to")
    lay(tmp_path / "two", {"Annotations/a.xml": voc("a.png"), "a.png": None, "labels/a.txt": ""})
    with pytest.raises(ConfigError, match="in 2 formats: yolo, voc"):
        imported(tmp_path / "two", tmp_path / "to")
    with pytest.raises(ConfigError, match="for COCO files alone"):
        imported(tmp_path / "two", tmp_path / "to", format="yolo", images=str(tmp_path))


def test_a_file_and_its_images_may_be_named(tmp_path: Path) -> None:
    result = imported(
        BCCD / "train.json", tmp_path / "to", images=str(BCCD / "images"), split={"validation": 0.2, "seed": 3}
    )
    assert [(split.name, split.images) for split in result.report.splits] == [("train", 17), ("val", 4)]
