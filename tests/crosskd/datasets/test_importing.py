"""An import as a whole: what it writes, when it writes nothing, and that the training takes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from crosskd.datasets.importing import import_dataset
from crosskd.errors import ConfigError, DataError, Interrupted
from crosskd.spec.coco.instances import read_instances
from crosskd.spec.data.import_config import ImportConfig
from crosskd.spec.results.dataset_report import DatasetReport
from tests.support.coco_files import content, noise, write
from tests.support.imports import BCCD, boxes, counts, faults, imported


def test_a_sound_data_set_comes_through_as_it_is(tmp_path: Path) -> None:
    result = imported(BCCD, tmp_path / "to")
    assert [file.name for file in result.files] == ["train.json", "val.json", "report.json"]
    for split in ("train", "val"):
        assert boxes(tmp_path / "to" / f"{split}.json") == boxes(BCCD / f"{split}.json")
        with (tmp_path / "to" / f"{split}.json").open("rb") as file:
            assert read_instances(file).faults.count == 0
    assert result.images == str(BCCD / "images")
    report = DatasetReport.model_validate_json((tmp_path / "to" / "report.json").read_text())
    assert report == result.report
    assert report.faults == []
    assert [(split.name, split.images, split.boxes) for split in report.splits] == [
        ("train", 21, 282),
        ("val", 9, 118),
    ]
    assert {entry.name: entry.boxes["train"] for entry in report.classes} == {"RBC": 235, "WBC": 21, "Platelets": 26}
    every = 282 + 118
    assert sum(map(sum, report.centres)) == every
    for bars in (report.box_sides, report.box_areas, report.aspect_ratios):
        assert sum(bar.count for bar in bars) == every
    assert sum(bar.count for bar in report.boxes_per_image) == 30


def test_the_same_input_gives_the_same_bytes_and_the_digest_heeds_content_alone(tmp_path: Path) -> None:
    first = imported(BCCD, tmp_path / "a")
    again = imported(BCCD, tmp_path / "b")
    for one, other in zip(first.files, again.files, strict=True):
        assert one.read_bytes() == other.read_bytes()
    copy = shutil.copytree(BCCD, tmp_path / "copy")
    assert imported(copy, tmp_path / "c").digest == first.digest
    image = next((copy / "images").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    assert imported(copy, tmp_path / "d").digest != first.digest


def test_faults_of_a_coco_file_are_counted_and_left_out(tmp_path: Path) -> None:
    data = content()
    data["images"] += [
        {"id": 1, "file_name": "gone.png", "width": 64, "height": 48},
        {"id": 2, "file_name": "../up.png", "width": 64, "height": 48},
        {"id": 3, "file_name": "text.png", "width": 64, "height": 48},
        {"id": 4, "file_name": "other.png", "width": 60, "height": 48},
        {"id": 6, "file_name": "unsized.png"},
        {"id": 70, "file_name": "again.png", "width": 64, "height": 48},
    ]
    one = {"image_id": 70, "category_id": 2}
    data["annotations"] += [
        {"id": 20, **one, "bbox": [60, 40, 10, 10]},  # reaches out
        {"id": 21, **one, "bbox": [70, 10, 5, 5]},  # outside
        {"id": 22, **one, "bbox": [1, 1, 0, 5]},
        {"id": 23, **one, "bbox": [1, "a", 5, 5]},
        {"id": 24, **one, "bbox": [1, 1, 5]},
        {"id": 25, **one, "bbox": [10, 10, 30, 20]},  # as annotation 3
        {"id": 25, **one, "bbox": [2, 2, 5, 5]},
        {"id": 26, "image_id": 999, "category_id": 2, "bbox": [1, 1, 5, 5]},
        {"id": 27, "image_id": 70, "category_id": 999, "bbox": [1, 1, 5, 5]},
    ]
    write(tmp_path, data, images=False)
    images = tmp_path / "images"
    for name in ("a.png", "b.png", "other.png", "unsized.png", "unlisted.png"):
        shutil.copyfile(next((BCCD / "images").iterdir()), images / name)
    for number, name in enumerate(("a.png", "b.png", "other.png", "unsized.png")):
        _noise(images / name, number)
    (images / "text.png").write_text("no image")
    result = imported(tmp_path, tmp_path / "to", split={"validation": 0.5})
    assert counts(result.report) == {
        "missing_image": 1,
        "outside_source": 1,
        "unreadable_image": 1,
        "wrong_size": 1,
        "no_size": 2,
        "unlisted_image": 1,
        "label_without_image": 1,
        "unknown_class": 1,
        "not_a_number": 2,
        "duplicate_id": 2,
        "box_outside": 1,
        "box_clipped": 1,
        "box_without_area": 1,
        "duplicate_box": 1,
    }
    found = faults(result.report)
    assert found["box_clipped"].done == "clipped"
    assert found["missing_image"].first[0].file == "gone.png"
    assert found["label_without_image"].first[0].id == "26"
    assert all(fault.remedy for fault in found.values())
    written = {**boxes(tmp_path / "to" / "train.json"), **boxes(tmp_path / "to" / "val.json")}
    assert set(written) == {"a.png", "b.png", "unsized.png"}
    assert ("dog", [60.0, 40.0, 4.0, 8.0]) in written["a.png"]
    with pytest.raises(DataError, match=r"1 x missing_image: gone.png"):
        imported(tmp_path, tmp_path / "refused", split={"validation": 0.5}, on_fault="refuse")
    assert not (tmp_path / "refused").exists()


def _noise(path: Path, seed: int) -> None:
    noise(64, 48, seed).save(path)


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    config = ImportConfig(source=str(BCCD))
    with pytest.raises(Interrupted):
        import_dataset(config, tmp_path / "to", on_progress=lambda done, total: None, stop=lambda: True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "to").mkdir()
    imported(BCCD, tmp_path / "to")  # an empty folder is taken
    with pytest.raises(ConfigError, match="not empty"):
        imported(BCCD, tmp_path / "to")


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ({"images": []}, {}, DataError, "images is empty"),
        ("[1", {}, DataError, "must be an object|not a readable JSON"),
        ({}, {}, ConfigError, "has train alone"),
        ({"annotations": []}, {"split": {}}, DataError, "no training image has a box"),
        (
            {"annotations": [{"id": 1, "image_id": 20, "category_id": 9, "bbox": [99, 9, 5, 5]}]},
            {"split": {}},
            DataError,
            "no training image has a box: 1 x box_outside: train.json 1",
        ),
    ],
)
def test_what_cannot_be_imported_is_told(
    tmp_path: Path, data: object, options: dict[str, object], error: type[Exception], message: str
) -> None:
    write(tmp_path / "source", content(**data) if isinstance(data, dict) else data)
    if isinstance(data, dict):
        for number, name in enumerate(("a.png", "b.png")):
            _noise(tmp_path / "source" / "images" / name, number)
    with pytest.raises(error, match=message):
        imported(tmp_path / "source", tmp_path / "to", **options)
    assert not (tmp_path / "to").exists()


def test_progress_counts_every_image(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    config = ImportConfig(source=str(BCCD))
    import_dataset(config, tmp_path / "to", on_progress=lambda *both: told.append(both), stop=lambda: False)
    assert told[-1] == (30, 30)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert json.loads((tmp_path / "to" / "train.json").read_text())["categories"][0] == {"id": 1, "name": "RBC"}
