from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest

from crosskd.data.coco import CocoDataset
from crosskd.errors import DataError
from tests.support.coco_files import content, write


def box(number: int, image_id: int, **changes):
    return {"id": number, "image_id": image_id, "category_id": 2, "bbox": [10, 10, 30, 20], "area": 600} | changes


def test_an_example_holds_the_image_and_its_boxes(tmp_path):
    data = CocoDataset(write(tmp_path, content()), tmp_path / "images")
    assert len(data) == 2
    example = data[1]
    assert example.image_id == 20
    assert example.image.size == (64, 48)
    assert example.boxes.dtype == np.float32
    assert example.boxes.tolist() == [[4, 6, 24, 16], [30.5, 8, 38.5, 16]]
    assert example.labels.tolist() == [1, 0]


def test_crowd_ignored_and_narrow_boxes_train_nothing_but_stay_in_the_ground_truth(tmp_path):
    boxes = [box(1, 70), box(2, 70, iscrowd=1), box(3, 70, ignore=1), box(4, 70, bbox=[1, 1, 9, 1.5])]
    data = CocoDataset(write(tmp_path, content(annotations=boxes)), tmp_path / "images", min_side=2)
    assert data[0].boxes.tolist() == [[10, 10, 40, 30]]
    assert len(data.annotations.boxes) == 4
    assert data.annotations.crowd.tolist() == [False, True, False, False]
    assert data.annotations.ignore.tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("drop_empty", "alone", "ids"),
    [
        (False, [], [70, 20]),
        (True, [], [20]),
        # As in MMDetection: a box that trains nothing does not make an image empty.
        (True, [box(1, 70, iscrowd=1)], [70, 20]),
        (True, [box(1, 70, ignore=1)], [70, 20]),
        (True, [box(1, 70, bbox=[1, 1, 9, 0.5])], [70, 20]),
        (True, [box(1, 70, bbox=[1, 1, 9, 0])], [20]),
    ],
)
def test_images_without_a_box_are_kept_or_dropped_and_those_with_crowds_alone_are_kept(
    tmp_path, drop_empty, alone, ids
):
    path = write(tmp_path, content(annotations=[*alone, box(2, 20)]))
    data = CocoDataset(path, tmp_path / "images", drop_empty=drop_empty, min_side=1)
    assert [data[i].image_id for i in range(len(data))] == ids
    assert len(data.sizes) == len(ids)
    if 70 in ids:
        assert data[0].boxes.shape == (0, 4)
        assert data[0].labels.shape == (0,)


@pytest.mark.parametrize("boxes", [[], [box(1, 70, iscrowd=1)]])
def test_a_data_set_without_a_box_that_trains_is_refused_when_empty_images_are_dropped(tmp_path, boxes):
    with pytest.raises(DataError, match="no image has a box that trains"):
        CocoDataset(write(tmp_path, content(annotations=boxes)), tmp_path / "images", drop_empty=True)


def test_small_images_are_left_out_by_their_shorter_side(tmp_path):
    data = content()
    data["images"][0]["height"] = 31
    path = write(tmp_path, data)
    for side, ids in ((31, [70, 20]), (32, [20])):
        found = CocoDataset(path, tmp_path / "images", min_image_side=side)
        assert [found[i].image_id for i in range(len(found))] == ids
    with pytest.raises(DataError, match="no image has a shorter side of 49 pixels or more") as refused:
        CocoDataset(path, tmp_path / "images", min_image_side=49)
    assert "loader.min_image_side" in str(refused.value)


def test_missing_images_are_counted_and_named_before_anything_is_read(tmp_path):
    path = write(tmp_path, content(), images=False)
    with pytest.raises(DataError, match=r"2 of 2 images are missing: 'a\.png', 'b\.png'"):
        CocoDataset(path, tmp_path / "images", max_corrupt_images=1)
    assert len(CocoDataset(path, tmp_path / "images", max_corrupt_images=2)) == 2


def test_images_in_subfolders_are_found(tmp_path):
    data = content()
    (tmp_path / "images" / "x" / "y").mkdir(parents=True)
    data["images"][0]["file_name"] = "x/y/a.png"
    assert CocoDataset(write(tmp_path, data), tmp_path / "images")[0].image_id == 70


def test_boxes_left_out_are_logged_with_their_number(tmp_path, caplog):
    path = write(tmp_path, content(annotations=[box(1, 70), box(2, 70, bbox=[99, 0, 5, 5])]))
    with caplog.at_level(logging.WARNING, "crosskd"):
        CocoDataset(path, tmp_path / "images")
    assert "1 of 2 boxes lie outside their image and are left out (annotation 2)" in caplog.text
    assert "(category 9)" in caplog.text


def test_a_worker_gets_arrays_rather_than_an_object_per_box(tmp_path):
    def size(count: int) -> int:
        boxes = [box(number, 70) for number in range(count)]
        return len(pickle.dumps(CocoDataset(write(tmp_path, content(annotations=boxes)), tmp_path / "images")))

    assert (size(2000) - size(1000)) / 1000 < 64  # bytes a box: 5 float64, a label and three flags
