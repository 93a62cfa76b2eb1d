"""Data sets in Pascal VOC's form: layouts, faults, unsafe XML, and back from another writer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crosskd.errors import ConfigError
from tests.support.dataset_folders import lay, to_voc, voc, voc_object
from tests.support.imports import BCCD, boxes, counts, faults, imported

CAT = voc_object("cat", 24, 12, 40, 36)
BOX = [24.0, 12.0, 16.0, 24.0]
Files = dict[str, str | bytes | None]


def test_what_labelformat_writes_comes_back(tmp_path: Path) -> None:
    result = imported(to_voc(BCCD, tmp_path / "voc"), tmp_path / "to")
    assert result.report.format == "voc"
    assert result.report.faults == []
    for split in ("train", "val"):
        found = boxes(tmp_path / "to" / f"{split}.json")
        for name, wanted in boxes(BCCD / f"{split}.json").items():
            back = found[f"JPEGImages/{name}"]
            assert [label for label, _ in back] == [label for label, _ in wanted]
            for (_, one), (_, other) in zip(back, wanted, strict=True):
                assert one == pytest.approx(other, abs=1e-9)


@pytest.mark.parametrize(
    "files",
    [
        {"Annotations/t.xml": voc("t.png", CAT), "Annotations/v.xml": voc("v.png", CAT),
         "JPEGImages/t.png": None, "JPEGImages/v.png": None,
         "ImageSets/Main/train.txt": "t\n", "ImageSets/Main/val.txt": "v\n", "ImageSets/Main/trainval.txt": "t\nv\n"},
        {"VOC2012/Annotations/t.xml": voc("t.png", CAT), "VOC2012/Annotations/v.xml": voc("v.png", CAT),
         "VOC2012/JPEGImages/t.png": None, "VOC2012/JPEGImages/v.png": None,
         "VOC2012/ImageSets/Main/train.txt": "t 1\n", "VOC2012/ImageSets/Main/val.txt": "v -1\n"},
        {"train/t.xml": voc("t.png", CAT), "train/t.png": None, "valid/v.xml": voc("v.png", CAT), "valid/v.png": None},
        {"Annotations/train/t.xml": voc("C:\\images\\t.png", CAT), "images/train/t.png": None,
         "Annotations/val/v.xml": voc("v.jpeg", CAT), "images/val/v.png": None},
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, files: Files) -> None:
    result = imported(lay(tmp_path / "source", files), tmp_path / "to")
    assert result.report.faults == []
    for split, leaf in (("train", "t.png"), ("val", "v.png")):
        ((name, found),) = boxes(tmp_path / "to" / f"{split}.json").items()
        assert Path(name).name == leaf
        assert found == [("cat", BOX)]


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "xxxx"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'


def test_faults_are_counted_and_left_out(tmp_path: Path) -> None:
    objects = [
        CAT,
        voc_object("dog", 1, 1, 11, 11, more="<difficult>1</difficult><truncated>1</truncated>"),
        voc_object("", 1, 1, 5, 5),
        voc_object("cat", 1, "x", 5, 5),
        voc_object("cat", 1, 1, 5, "inf"),
        voc_object("cat", 1, 1, 5),
        voc_object("cat", 9, 9, 5, 5),
        voc_object("cat", 60, 40, 70, 50),
    ]
    files: Files = {
        "Annotations/a.xml": voc("a.png", *objects),
        "Annotations/gone.xml": voc("gone.png", CAT),
        "Annotations/up.xml": voc("../../../../etc/hostname", CAT),
        "Annotations/unsized.xml": voc("unsized.png", CAT, size=(0, 0)),
        "Annotations/other.xml": voc("other.png", CAT, size=(65, 48)),
        "Annotations/bomb.xml": BOMB,
        "Annotations/outside.xml": OUTSIDE,
        "Annotations/cut.xml": "<annotation><filename>",
        "Annotations/latin.xml": "<annotation><filename>é</filename></annotation>".encode("latin-1"),
        "Annotations/html.xml": "<html/>",
        "Annotations/nowhere.xml": voc("nowhere.png", CAT),
        "ImageSets/Main/train.txt": "a\ngone\nup\nother\nbomb\noutside\ncut\nlatin\nhtml\nnever\n",
        "ImageSets/Main/val.txt": "unsized\n",
        **{f"JPEGImages/{name}.png": None for name in ("a", "unsized", "other", "nowhere", "unlisted")},
    }
    result = imported(lay(tmp_path / "source", files), tmp_path / "to")
    assert counts(result.report) == {
        "wrong_size": 1,
        "no_size": 1,
        "unlisted_image": 1,
        "label_without_image": 2,
        "not_utf8": 1,
        "unreadable_label": 4,
        "bad_entry": 2,
        "in_no_split": 1,
        "unknown_class": 1,
        "not_a_number": 2,
        "box_clipped": 1,
        "box_without_area": 1,
        "difficult": 1,
        "truncated": 1,
    }
    unreadable = {each.file: each.why for each in faults(result.report)["unreadable_label"].first}
    for name in ("bomb", "outside"):
        assert "DOCTYPE" in unreadable[f"Annotations/{name}.xml"]
    content = json.loads((tmp_path / "to" / "train.json").read_text())
    assert [box.get("ignore", 0) for box in content["annotations"]] == [0, 1, 0]
    assert boxes(tmp_path / "to" / "train.json") == {
        "JPEGImages/a.png": [("cat", BOX), ("dog", [1, 1, 10, 10]), ("cat", [60, 40, 4, 8])]
    }


def test_a_folder_of_one_split_is_divided(tmp_path: Path) -> None:
    files: Files = {f"{n}.png": None for n in range(4)} | {f"{n}.xml": voc(f"{n}.png", CAT) for n in range(4)}
    source = lay(tmp_path / "source", files)
    with pytest.raises(ConfigError, match="has train alone"):
        imported(source, tmp_path / "to")
    result = imported(source, tmp_path / "to", split={"validation": 0.25})
    assert [(split.name, split.images) for split in result.report.splits] == [("train", 3), ("val", 1)]
