"""What is seen of images: how they are turned, how large they may be, and where they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crosskd.data.coco import CocoDataset
from crosskd.datasets import images
from tests.support.coco_files import noise
from tests.support.dataset_folders import lay
from tests.support.imports import boxes, counts, faults, imported

LABEL = "0 0.5 0.5 0.25 0.5\n"


def turned(path: Path, orientation: int = 6) -> None:
    """An image that is stored as 64 x 48 and is to be seen as 48 x 64."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(64, 48).save(path, exif=exif)


def coco(folder: Path, *entries: dict[str, Any]) -> Path:
    """Of each image one box in its upper left corner."""
    data = {
        "images": list(entries),
        "annotations": [
            {"id": at, "image_id": entry["id"], "category_id": 7, "bbox": [2, 2, 20, 30]}
            for at, entry in enumerate(entries)
        ],
        "categories": [{"id": 7, "name": "cat"}],
    }
    return lay(folder, {"train.json": json.dumps(data), "images/x.png": None, "images/y.png": None})


@pytest.mark.parametrize(("width", "height"), [(48, 64), (64, 48)])
def test_a_turned_image_is_kept_as_it_was_annotated(tmp_path: Path, width: int, height: int) -> None:
    source = coco(
        tmp_path / "source",
        {"id": 1, "file_name": "a.jpg", "width": width, "height": height},
        {"id": 2, "file_name": "x.png", "width": 64, "height": 48},
        {"id": 3, "file_name": "y.png", "width": 64, "height": 48},
    )
    turned(source / "images" / "a.jpg")
    report = imported(source, tmp_path / "to", split={"validation": 0.34, "seed": 1}).report
    assert counts(report) == {"exif_rotation": 1}
    for split in ("train", "val"):  # as a training reads it
        data = CocoDataset(tmp_path / "to" / f"{split}.json", report.images)
        for index in range(len(data)):
            if data.name(index) == "a.jpg":
                assert data[index].image.size == (width, height)


def test_a_yolo_image_is_seen_upright(tmp_path: Path) -> None:
    yaml = "train: images\nval: images\nnames: [cat]"
    source = lay(tmp_path / "source", {"data.yaml": yaml, "images/b.png": None, "labels/a.txt": LABEL})
    turned(source / "images" / "a.jpg")
    imported(source, tmp_path / "to")
    content = json.loads((tmp_path / "to" / "train.json").read_text())
    assert [(image["width"], image["height"]) for image in content["images"]] == [(48, 64), (64, 48)]
    assert boxes(tmp_path / "to" / "train.json")["images/a.jpg"] == [("cat", [18.0, 16.0, 12.0, 32.0])]


def test_an_image_of_too_many_pixels_is_left_out_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 48 - 1)
    yaml = "train: images\nval: images\nnames: [cat]"
    source = lay(tmp_path / "source", {"data.yaml": yaml, "images/a.png": None, "labels/b.txt": LABEL})
    noise(60, 48).save(source / "images" / "b.png")
    report = imported(source, tmp_path / "to").report
    assert faults(report)["too_many_pixels"].first[0].file == "images/a.png"
    assert boxes(tmp_path / "to" / "train.json").keys() == {"images/b.png"}
