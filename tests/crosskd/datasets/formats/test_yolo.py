"""Data sets in YOLO's form: every layout, every fault, and back from another writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosskd.errors import ConfigError, DataError
from tests.support.dataset_folders import lay, to_yolo
from tests.support.imports import BCCD, boxes, counts, faults, imported

LABEL = "0 0.5 0.5 0.25 0.5\n"
BOX = [24.0, 12.0, 16.0, 24.0]  # of 64 x 48 pixels
TRAIN_AND_VAL = "train: images/train\nval: images/val\nnames: [cat]"
Files = dict[str, str | bytes | None]


def test_what_labelformat_writes_comes_back(tmp_path: Path) -> None:
    result = imported(to_yolo(BCCD, tmp_path / "yolo"), tmp_path / "to")
    assert result.report.format == "yolo"
    assert result.report.faults == []
    assert [entry.name for entry in result.report.classes] == ["RBC", "WBC", "Platelets"]
    for split in ("train", "val"):
        found = boxes(tmp_path / "to" / f"{split}.json")
        for name, wanted in boxes(BCCD / f"{split}.json").items():
            back = found[f"{split}/images/{name}"]
            assert [label for label, _ in back] == [label for label, _ in wanted]
            for (_, one), (_, other) in zip(back, wanted, strict=True):
                assert one == pytest.approx(other, abs=0.002)


def both(one: str, other: str) -> Files:
    """An image with a label for each of two folders of images: training and validation."""
    files: Files = {}
    for split, folder in (("t", one), ("v", other)):
        files[f"{folder}/{split}.png"] = None
        files[f"{folder.replace('images', 'labels')}/{split}.txt"] = LABEL
    return files


@pytest.mark.parametrize(
    ("folders", "files", "name"),
    [
        ("images/train images/val", {"data.yaml": TRAIN_AND_VAL}, "cat"),
        ("images/train images/val", {"data.yaml": f"path: /gone\n{TRAIN_AND_VAL}"}, "cat"),
        ("images/train images/val", {"data.yaml": "train: images/train\nval: images/val\nnc: 1"}, "class_0"),
        ("images/train images/val", {"classes.txt": "cat\n"}, "cat"),
        ("deep/images/a deep/images/b",
         {"data.yaml": "path: deep\ntrain: [images/a]\nval: images/b\nnames: {'0': cat}"}, "cat"),
        ("train/images valid/images",
         {"data.yaml": "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']"}, "cat"),
        ("train/images valid/images", {"data.yaml": "train: train\nval: valid\nnames: [cat]"}, "cat"),
        ("train/images valid/images", {}, "class_0"),
        ("images images", {"data.yaml": "train: train.txt\nval: val.txt\nnames: [cat]",
                           "train.txt": "./images/t.png\n\n", "val.txt": "images/v.png"}, "cat"),
        ("a b", {"mine.yml": "train: a\nvalid: b\nnames: [cat]", "labels/x.txt": ""}, "cat"),
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, folders: str, files: Files, name: str) -> None:
    result = imported(lay(tmp_path / "source", files | both(*folders.split())), tmp_path / "to")
    assert result.report.format == "yolo"
    assert [entry.name for entry in result.report.classes] == [name]
    for split, leaf in (("train", "t.png"), ("val", "v.png")):
        ((file, found),) = boxes(tmp_path / "to" / f"{split}.json").items()
        assert Path(file).name == leaf
        assert found == [(name, BOX)]
        assert (Path(result.images) / file).is_file()


def test_one_folder_is_divided_and_a_test_split_stays_apart(tmp_path: Path) -> None:
    files: Files = {f"images/{n}.png": None for n in range(10)} | {f"labels/{n}.txt": LABEL for n in range(10)}
    with pytest.raises(ConfigError, match="has train alone"):
        imported(lay(tmp_path / "source", files), tmp_path / "to")
    result = imported(tmp_path / "source", tmp_path / "to", split={"validation": 0.3, "seed": 1})
    assert [(split.name, split.images) for split in result.report.splits] == [("train", 7), ("val", 3)]
    yaml = "train: images/train\nval: images/val\ntest: images/test\nnames: [cat]"
    more = {"images/test/x.png": None, "labels/test/x.txt": LABEL}
    lay(tmp_path / "three", {"data.yaml": yaml, **both("images/train", "images/val"), **more})
    result = imported(tmp_path / "three" / "data.yaml", tmp_path / "to3", split={"validation": 0.5})
    assert [split.name for split in result.report.splits] == ["train", "val", "test"]
    assert boxes(tmp_path / "to3" / "test.json").keys() == {"images/test/x.png"}


def test_faults_are_counted_and_left_out(tmp_path: Path) -> None:
    lines = [
        LABEL.strip(),
        "1 0.1 0.1 0.1 0.1 0.3 0.1 0.3 0.3",  # a polygon
        "0 0.5 0.5 0.25 0.5",  # once more
        "7 0.5 0.5 0.2 0.2",
        "-1 0.5 0.5 0.2 0.2",
        "0.5 0.5 0.5 0.2 0.2",
        "0 0.5 0.5 nan 0.2",
        "0 0.5 x 0.2 0.2",
        "0 0.5 0.5",
        "0 0.5 0.5 0.2 0.2 0.9",
        "0 32 24 10 10",
        "0 0.95 0.5 0.2 0.2",  # reaches out
        "0 1.5 0.5 0.2 0.2",  # outside
        "0 0.5 0.5 0 0.2",
    ]
    image = "images/train/{}.png".format
    files: Files = {
        "data.yaml": "train: images/train\nval: images/val\ntest: images/test\nnames: [cat, dog]",
        **both("images/train", "images/val"),
        "labels/train/t.txt": "\n".join(lines),
        image("unlabelled"): None,
        "labels/train/orphan.txt": LABEL,
        image("latin"): None,
        "labels/train/latin.txt": b"0 0.5 0.5 0.2 0.2 \xe9",
        "labels/train/link.txt": LABEL,
        image("broken"): b"\x89PNG\r\n\x1a\n",
        "labels/train/broken.txt": LABEL,
        image("cut"): None,
        "labels/train/cut.txt": LABEL,
    }
    source = lay(tmp_path / "source", files)
    cut = source / image("cut")
    cut.write_bytes(cut.read_bytes()[:-2000])
    (source / image("link")).symlink_to("/etc/hostname")
    result = imported(source, tmp_path / "to")
    assert counts(result.report) == {
        "outside_source": 1,
        "unreadable_image": 2,
        "image_without_label": 1,
        "label_without_image": 1,
        "not_utf8": 1,
        "unknown_line": 2,
        "empty_split": 1,
        "unknown_class": 3,
        "not_a_number": 2,
        "not_relative": 1,
        "box_outside": 1,
        "box_clipped": 1,
        "box_without_area": 1,
        "duplicate_box": 1,
        "polygon": 1,
    }
    assert faults(result.report)["unknown_class"].first[0].model_dump() == {
        "file": "labels/train/t.txt", "id": "line 4", "why": "class 7",
    }  # fmt: skip
    found = boxes(tmp_path / "to" / "train.json")
    assert found.keys() == {"images/train/t.png", "images/train/unlabelled.png"}
    assert found["images/train/t.png"] == [
        ("cat", BOX),
        ("dog", [6.4, 4.8, 12.8, 9.6]),
        ("cat", [54.4, 19.2, 9.6, 9.6]),
    ]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: [", "no YAML at line"),
        ("- a", "no mapping"),
        ("!!python/object/apply:os.system ['true']", "no YAML at line"),
        ("names: [a]", "names no split"),
        ("train: 3\nval: 3\nnames: [a]", "`train` is no path"),
        ("train: images\nval: images\nnames: [a, a]", "both named 'a'"),
        ("train: images\nval: images\nnames: []", "0 classes"),
        ("train: images\nval: images\nnames: {x: a}", "a number that is none"),
        ("train: images\nval: images\nnames: [[a]]", "has no name"),
        ("train: images\nval: images\nnc: 3\nnames: [a]", "`nc` is 3"),
        ("train: images\nval: gone\nnames: [a]", "'gone', is not there"),
        ("train: images\nval: ../outside\nnames: [a]", "leads out of the data"),
        ("train: images\nval: /etc\nnames: [a]", "leads out of the data"),
        ("#" * (1 << 20) + "\n", "more than 1 MiB"),
    ],
)
def test_a_data_yaml_that_cannot_be_used_is_told(tmp_path: Path, yaml: str, message: str) -> None:
    lay(tmp_path / "source", {"data.yaml": yaml, "images/a.png": None, "images/a.txt": LABEL, "../outside/b.png": None})
    with pytest.raises((ConfigError, DataError), match=message):
        imported(tmp_path / "source", tmp_path / "to")


def test_links_may_lead_to_the_data_roots_alone(tmp_path: Path) -> None:
    lay(tmp_path / "shared", {"x.png": None})
    files: Files = {
        "data.yaml": "train: images/train\nval: images/val\nnames: [cat]",
        **both("images/train", "images/val"),
    }
    source = lay(tmp_path / "source", files | {"labels/train/x.txt": LABEL})
    (source / "images/train/x.png").symlink_to(tmp_path / "shared" / "x.png")
    assert counts(imported(source, tmp_path / "a").report) == {"outside_source": 1}
    assert counts(imported(source, tmp_path / "b", roots=[(tmp_path / "shared").resolve()]).report) == {}


def test_a_data_yaml_may_lie_elsewhere_where_the_data_root_is_named(tmp_path: Path) -> None:
    lay(tmp_path, {"config/data.yaml": f"path: ../set\n{TRAIN_AND_VAL}"})
    lay(tmp_path / "set", both("images/train", "images/val"))
    with pytest.raises(ConfigError, match=r"leads out of the data.*--data-root"):
        imported(tmp_path / "config" / "data.yaml", tmp_path / "to")
    result = imported(tmp_path / "config" / "data.yaml", tmp_path / "to", roots=[(tmp_path / "set").resolve()])
    assert result.images == str((tmp_path / "set" / "images").resolve())
    assert boxes(tmp_path / "to" / "train.json") == {"train/t.png": [("cat", BOX)]}


def test_a_list_that_names_images_outside_is_counted(tmp_path: Path) -> None:
    listed = "images/t.png\n/etc/passwd\n../../x.png\nimages/gone.png\n"
    yaml = "train: train.txt\nval: images/val\nnames: [cat]"
    lay(tmp_path / "source", {"data.yaml": yaml, "train.txt": listed, **both("images", "images/val")})
    report = imported(tmp_path / "source", tmp_path / "to").report
    assert counts(report) == {"missing_image": 1, "outside_source": 2}


def test_keypoints_behind_a_box_are_left_out(tmp_path: Path) -> None:
    yaml = "train: images/train\nval: images/val\nnames: [cat]\nkpt_shape: [2, 3]"
    files = {"data.yaml": yaml, **both("images/train", "images/val")}
    files["labels/train/t.txt"] = "0 0.5 0.5 0.25 0.5 0.1 0.2 2 0.3 0.4 2"
    imported(lay(tmp_path / "source", files), tmp_path / "to")
    assert boxes(tmp_path / "to" / "train.json") == {"images/train/t.png": [("cat", BOX)]}
