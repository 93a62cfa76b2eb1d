"""RTMDet's assignment against its rule, written out point by point."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crosskd.boxes.anchors import cell_points
from crosskd.boxes.assign_dynamic import Said, dynamic_soft_label, nothing_there
from crosskd.structures import Assignment, Size, Targets

CLASSES = 4
SIZES: list[Size] = [(6, 8), (3, 4), (2, 2)]  # of 48 x 64 pixels
STRIDES = (8, 16, 32)
BOXES = torch.tensor([[3.0, 2.0, 45.0, 40.0], [10.0, 8.0, 30.0, 28.0], [33.0, 1.0, 38.0, 6.0]], dtype=torch.float64)
LABELS = torch.tensor([1, 3, 1])


def assigned(targets: Targets, logits: Tensor, boxes: Tensor) -> Assignment:
    points = cell_points(SIZES, STRIDES, 0.0, boxes)
    said = Said(
        nothing_there(logits).sum(-1), lambda classes: logits.mT[torch.arange(len(classes))[:, None], classes], boxes
    )
    return dynamic_soft_label(points, SIZES, STRIDES, said, targets, CLASSES)


def made(seed: int, images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = cell_points(SIZES, STRIDES, 0.0, BOXES).centres
    distances = 20 * torch.rand(images, len(points), 4, generator=generator, dtype=torch.float64)
    logits = torch.randn(images, len(points), CLASSES, generator=generator, dtype=torch.float64)
    return logits, torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


def iou(a: list[float], b: list[float]) -> float:
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def cost(z: list[float], overlap: float, label: int, distance: float) -> float:
    total = 0.0
    for c, logit in enumerate(z):
        p, aim = 1 / (1 + math.exp(-logit)), overlap if c == label else 0.0
        total -= (aim * math.log(p) + (1 - aim) * math.log(1 - p)) * (aim - p) ** 2
    return total - 3 * math.log(overlap + 1e-7) + 10 ** (distance - 3)


def by_rule(logits: Tensor, predicted: Tensor, boxes: list[list[float]]) -> dict[int, int]:
    """Point -> box, of one image."""
    points = cell_points(SIZES, STRIDES, 0.0, BOXES)
    centres, strides = points.centres.tolist(), points.strides.tolist()
    inside = [
        i for i, (x, y) in enumerate(centres) if any(x > b[0] and y > b[1] and x < b[2] and y < b[3] for b in boxes)
    ]
    table: dict[tuple[int, int], float] = {}
    taken: dict[int, list[int]] = {}
    for j, box in enumerate(boxes):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        overlaps = {i: iou(predicted[i].tolist(), box) for i in inside}
        for i in inside:
            away = math.dist(centres[i], middle) / strides[i]
            table[i, j] = cost(logits[i].tolist(), overlaps[i], int(LABELS[j]), away)
        number = max(1, int(sum(sorted(overlaps.values())[-13:])))
        for i in sorted(inside, key=lambda i: table[i, j])[:number]:
            taken.setdefault(i, []).append(j)
    every = range(len(boxes))
    return {i: js[0] if len(js) == 1 else min(every, key=lambda j: table[i, j]) for i, js in taken.items()}


@pytest.mark.parametrize("seed", range(4))
def test_points_go_where_the_rule_says(seed: int) -> None:
    logits, boxes = made(seed, 1)
    found = assigned(Targets([BOXES], [LABELS], [(48, 64)], [(64, 64)]), logits, boxes)
    expected = by_rule(logits[0], boxes[0], BOXES.tolist())
    positive = (found.labels[0] < CLASSES).nonzero()[:, 0].tolist()
    assert positive == sorted(expected)
    assert len(positive) > len(BOXES)
    for point in positive:
        box = BOXES[expected[point]]
        assert torch.equal(found.boxes[0, point], box)
        assert found.labels[0, point] == LABELS[expected[point]]
        assert found.quality is not None
        assert found.quality[0, point].item() == pytest.approx(iou(boxes[0, point].tolist(), box.tolist()))


def test_padding_and_images_without_boxes_learn_nothing() -> None:
    logits, boxes = made(0, 3)
    far = torch.tensor([[50.0, 33.0, 55.0, 39.0]], dtype=torch.float64)  # no point of any level lies in it
    targets = Targets(
        [BOXES, BOXES[:0], far], [LABELS, LABELS[:0], LABELS[:1]], [(48, 64)] * 3, [(64, 32), (64, 64), (64, 64)]
    )
    found = assigned(targets, logits, boxes)
    assert found.positives[0] > 0
    assert found.positives.tolist()[1:] == [0, 0]
    columns = cell_points(SIZES, STRIDES, 0.0, BOXES).centres[:, 0]
    assert torch.equal(found.label_weights[0] == 0, columns >= 32)
    assert not (found.labels[0] < CLASSES)[columns >= 32].any()
    assert found.label_weights[1:].all()
    assert found.quality is not None
    assert torch.equal(found.quality > 0, found.labels < CLASSES)
