"""YOLOX's assignment against its rule, written out point by point."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crosskd.boxes.anchors import cell_points
from crosskd.boxes.assign_simota import Said, nothing_there, simota
from crosskd.structures import Assignment, Size, Targets

CLASSES = 4
SIZES: list[Size] = [(6, 8), (3, 4), (2, 2)]  # of 48 x 64 pixels
STRIDES = (8, 16, 32)
BOXES = torch.tensor([[3.0, 2.0, 45.0, 40.0], [10.0, 8.0, 30.0, 28.0], [33.0, 1.0, 38.0, 6.0]], dtype=torch.float64)
LABELS = torch.tensor([1, 3, 1])
POINTS = cell_points(SIZES, STRIDES, 0.5, BOXES)


def assigned(targets: Targets, scores: Tensor, boxes: Tensor) -> Assignment:
    said = Said(
        nothing_there(scores).sum(-1), lambda classes: scores.mT[torch.arange(len(classes))[:, None], classes], boxes
    )
    return simota(POINTS, said, targets, CLASSES)


def made(seed: int, images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = 4 + 30 * torch.rand(images, len(POINTS.centres), 2, generator=generator, dtype=torch.float64)
    scores = torch.rand(images, len(POINTS.centres), CLASSES, generator=generator, dtype=torch.float64)
    return scores, torch.cat((POINTS.centres - sides / 2, POINTS.centres + sides / 2), dim=-1)


def iou(a: list[float], b: list[float]) -> float:
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def by_rule(scores: Tensor, predicted: Tensor) -> dict[int, int]:
    """Point -> box, of one image."""
    boxes, strides = BOXES.tolist(), POINTS.strides.tolist()
    within, near = {}, {}
    for i, (x, y) in enumerate(POINTS.centres.tolist()):
        for j, b in enumerate(boxes):
            within[i, j] = b[0] < x < b[2] and b[1] < y < b[3]
            away = max(abs(x - (b[0] + b[2]) / 2), abs(y - (b[1] + b[3]) / 2))
            near[i, j] = away < 2.5 * strides[i]
    every = range(len(boxes))
    candidates = [i for i in range(len(strides)) if any(within[i, j] or near[i, j] for j in every)]
    table: dict[tuple[int, int], float] = {}
    taken: dict[int, list[int]] = {}
    for j, box in enumerate(boxes):
        overlaps = {i: iou(predicted[i].tolist(), box) for i in candidates}
        for i in candidates:
            said = scores[i].tolist()
            entropy = -sum(math.log(p if c == LABELS[j] else 1 - p) for c, p in enumerate(said))
            elsewhere = 0 if within[i, j] and near[i, j] else 1e5
            table[i, j] = entropy - 3 * math.log(overlaps[i] + 1e-7) + elsewhere
        number = max(1, int(sum(sorted(overlaps.values())[-10:])))
        for i in sorted(candidates, key=lambda i: table[i, j])[:number]:
            taken.setdefault(i, []).append(j)
    return {i: js[0] if len(js) == 1 else min(every, key=lambda j: table[i, j]) for i, js in taken.items()}


@pytest.mark.parametrize("seed", range(4))
def test_points_go_where_the_rule_says(seed: int) -> None:
    scores, boxes = made(seed, 1)
    found = assigned(Targets([BOXES], [LABELS], [(48, 64)], [(64, 64)]), scores, boxes)
    expected = by_rule(scores[0], boxes[0])
    positive = (found.labels[0] < CLASSES).nonzero()[:, 0].tolist()
    assert positive == sorted(expected)
    assert len(positive) > len(BOXES)
    assert found.quality is not None
    for point in positive:
        box = BOXES[expected[point]]
        assert torch.equal(found.boxes[0, point], box)
        assert found.labels[0, point] == LABELS[expected[point]]
        assert found.quality[0, point].item() == pytest.approx(iou(boxes[0, point].tolist(), box.tolist()))


def test_points_in_the_padding_count_and_images_without_boxes_learn_nothing() -> None:
    scores, boxes = made(0, 2)
    targets = Targets([BOXES, BOXES[:0]], [LABELS, LABELS[:0]], [(48, 64)] * 2, [(64, 32), (64, 64)])
    found = assigned(targets, scores, boxes)
    assert found.positives[0] > 0
    assert found.positives[1] == 0
    assert found.label_weights.all()
    assert (found.labels[0] < CLASSES)[POINTS.centres[:, 0] >= 32].any()


def test_a_class_of_which_the_head_is_wholly_sure_costs_no_infinity() -> None:
    scores, boxes = made(0, 1)
    found = assigned(Targets([BOXES], [LABELS], [(48, 64)], [(64, 64)]), scores.round(), boxes)
    assert found.positives[0] >= len(BOXES) - 1
