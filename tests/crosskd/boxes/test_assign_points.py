"""FCOS's assignment against a plain transcription, point by point."""

from __future__ import annotations

import math

import pytest
import torch

from crosskd.boxes.anchors import cell_points
from crosskd.boxes.assign_points import points_in_boxes
from crosskd.structures import Size, Targets

STRIDES = [8, 16, 32]
SIZES: list[Size] = [(16, 16), (8, 8), (4, 4)]  # of 128 x 128 pixels
RANGES = [(-1.0, 64.0), (64.0, 128.0), (128.0, math.inf)]
CLASSES = 4


def plainly(boxes: list[list[float]], radius: float | None) -> list[int]:
    """Per point the box it learns, -1 for none."""
    result = []
    for (height, width), stride, (lowest, highest) in zip(SIZES, STRIDES, RANGES, strict=True):
        for row in range(height):
            for column in range(width):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                fitting = []
                for number, (x1, y1, x2, y2) in enumerate(boxes):
                    inside = x1 < x < x2 and y1 < y < y2
                    if radius is not None:
                        middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
                        inside &= abs(x - middle_x) < radius * stride and abs(y - middle_y) < radius * stride
                    farthest = max(x - x1, y - y1, x2 - x, y2 - y)
                    if inside and lowest <= farthest <= highest:
                        fitting.append(((x2 - x1) * (y2 - y1), number))
                result.append(min(fitting)[1] if fitting else -1)
    return result


@pytest.mark.parametrize("radius", [None, 1.5, 0.5])
def test_points_learn_the_boxes_that_the_plain_rule_gives_them(radius: float | None) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        corner = torch.rand(5, 2, generator=generator, dtype=torch.float64) * 60
        sides = 4 + 120 * torch.rand(5, 2, generator=generator, dtype=torch.float64) ** 2
        boxes, labels = torch.cat((corner, corner + sides), dim=1), torch.tensor([3, 1, 0, 2, 1])
        points = cell_points(SIZES, STRIDES, 0.5, boxes)
        targets = Targets([boxes], [labels], [(128, 128)], [(128, 128)])
        found = points_in_boxes(points, STRIDES, targets, CLASSES, radius=radius)
        expected = plainly(boxes.tolist(), radius)
        assert found.labels[0].tolist() == [CLASSES if box < 0 else int(labels[box]) for box in expected]
        assert all(torch.equal(found.boxes[0, i], boxes[box]) for i, box in enumerate(expected) if box >= 0)
        assert found.label_weights.all()


def test_every_size_has_a_level() -> None:
    points = cell_points(SIZES, STRIDES, 0.5, torch.zeros(()))
    for side in (10.0, 60.0, 100.0, 120.0, 2000.0):
        box = torch.tensor([[64 - side / 2, 64 - side / 2, 64 + side / 2, 64 + side / 2]])
        targets = Targets([box], [torch.tensor([0])], [(128, 128)], [(128, 128)])
        assert points_in_boxes(points, STRIDES, targets, CLASSES, radius=None).positives[0] > 0


def test_images_without_boxes_have_no_positives() -> None:
    points = cell_points(SIZES, STRIDES, 0.5, torch.zeros(()))
    nothing = Targets([torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.long)], [(128, 128)], [(128, 128)])
    assert points_in_boxes(points, STRIDES, nothing, CLASSES, radius=1.5).positives.tolist() == [0]
