from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosskd.data.annotations import PackedNames, read_annotations, read_classes
from crosskd.errors import DataError
from tests.support.coco_files import content, write


def image(**changes: Any) -> dict[str, Any]:
    return {"id": 70, "file_name": "a.png", "width": 64, "height": 48} | changes


def box(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 70, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0} | changes


def without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


def fault_of(folder: Path, data: Any) -> DataError:
    path = write(folder, data, images=False)
    with pytest.raises(DataError) as caught:
        read_annotations(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy
    return caught.value


def test_arrays_are_grouped_by_image_with_labels_by_ascending_category_id(tmp_path):
    read = read_annotations(write(tmp_path, content()))
    assert read.classes == ["dog", "cat"]
    assert read.image_ids.tolist() == [70, 20]
    assert list(read.names) == ["a.png", "b.png"]
    assert read.sizes.tolist() == [[48, 64], [48, 64]]
    assert read.boxes[read.rows(0)].tolist() == [[10, 10, 40, 30]]
    assert read.boxes[read.rows(1)].tolist() == [[4, 6, 24, 16], [30.5, 8, 38.5, 16]]
    assert read.labels[read.rows(1)].tolist() == [1, 0]
    assert read.areas[read.rows(1)].tolist() == [150, 64]
    assert not read.crowd.any()


def test_given_classes_set_the_order_and_leave_other_categories_out(tmp_path):
    path = write(tmp_path, content())
    assert read_annotations(path, ["cat", "dog"]).labels.tolist() == [1, 0, 1]
    only = read_annotations(path, ["cat"])
    assert only.labels.tolist() == [0]
    assert np.diff(only.starts).tolist() == [0, 1]


def test_a_class_that_the_file_lacks_is_named_with_those_it_has(tmp_path):
    with pytest.raises(DataError, match=r"no category 'cow'.*dog, cat"):
        read_annotations(write(tmp_path, content()), ["cat", "cow"])


def test_read_classes_is_by_ascending_id(tmp_path):
    assert read_classes(write(tmp_path, content())) == ["dog", "cat"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "not a readable JSON file"),
        ('{"images": [}', "not a readable JSON file"),
        ([], "the top level must be an object"),
        ({}, "the key 'images' is missing; the key 'annotations' is missing; the key 'categories' is missing"),
        (content(images=[{"id": 70}], annotations=[]), r"images\[0\].file_name is missing: text"),
        (content(categories=[{"id": 1}]), r"categories\[0\].name is missing"),
    ],
)
def test_faults_of_a_file_are_named_with_their_places(tmp_path, data, message):
    """Every kind of fault: tests/crosskd/spec/coco/test_instances.py."""
    assert_matches(fault_of(tmp_path, data), message)


def test_duplicate_ids_are_named(tmp_path):
    error = fault_of(tmp_path, content(images=[image(), image()], annotations=[box(), box()]))
    assert "images[1].id 70 stands in the file twice" in error.message
    assert "annotations[1].id 1 stands in the file twice" in error.message
    assert error.message.startswith("train.json has 2 faults")


def test_of_many_faults_twenty_are_spelt_out_and_all_are_counted(tmp_path):
    boxes = [box(id=i, bbox=[0, 0, -1, 1]) for i in range(50)]
    message = fault_of(tmp_path, content(images=[image()], annotations=boxes)).message
    assert "has 50 faults" in message
    assert message.count("negative width") == 20
    assert message.endswith("and 30 more")


def test_boxes_are_clipped_and_those_with_nothing_inside_are_dropped_counted_and_named(tmp_path):
    boxes = [
        box(id=1, bbox=[-5, 40, 20, 100]),
        box(id=2, bbox=[64, 0, 5, 5]),
        box(id=3, bbox=[-9, 0, 9, 5]),
        box(id=4, bbox=[3, 3, 0, 7]),
        box(id=5, bbox=[60, 1, 4, 4]),
    ]
    read = read_annotations(write(tmp_path, content(images=[image()], annotations=boxes), images=False))
    assert read.boxes.tolist() == [[0, 40, 15, 48], [60, 1, 64, 5]]
    assert read.left_out == 3
    assert [(remark.kind, remark.count, remark.ids) for remark in read.remarks[:3]] == [
        ("outside", 2, [2, 3]),
        ("no_size", 1, [4]),
        ("clipped", 1, [1]),
    ]


def test_what_exporters_commonly_do_is_taken(tmp_path):
    entry = without(without(box(bbox=[1, 2, 3, 4], segmentation=[[1, 2, 3, 4, 5, 6]]), "area"), "iscrowd")
    data = content(images=[image(width=64.0, license=None)], annotations=[entry, box(id=2, area=None, iscrowd=True)])
    path = write(tmp_path, "\ufeff" + json.dumps(data))
    read = read_annotations(path)
    assert read.areas.tolist() == [12, 12]
    assert read.crowd.tolist() == [False, True]


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError, match="cannot read the annotation file"):
            read_annotations(path)


def test_a_file_that_is_no_text_is_a_clear_error(tmp_path):
    path = tmp_path / "train.json"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="not a readable JSON file"):
        read_annotations(path)


def test_packed_names_behave_like_a_list():
    names = ["a.png", "", "ü/漢.jpg"]
    packed = PackedNames(names)
    assert list(packed) == names
    assert packed[-1] == names[-1]
    assert packed[1:] == names[1:]
    with pytest.raises(IndexError):
        packed[3]


def assert_matches(error: DataError, pattern: str) -> None:
    with pytest.raises(DataError, match=pattern):
        raise error
