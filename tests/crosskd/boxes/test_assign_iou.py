"""Max-IoU assignment against a plain transcription, anchor by anchor."""

from __future__ import annotations

import pytest
import torch

from crosskd.boxes.anchors import octave_anchors
from crosskd.boxes.assign_iou import max_iou
from crosskd.structures import Assignment, Size, Targets

STRIDES = [8, 16, 32]
SIZES: list[Size] = [(8, 12), (4, 6), (2, 3)]  # of a batch of 64 x 96 pixels
CLASSES = 4


def assign(targets: Targets) -> Assignment:
    anchors = octave_anchors(SIZES, STRIDES, 4.0, 3, [0.5, 1.0, 2.0], targets.boxes[0])
    return max_iou(anchors, SIZES, STRIDES, targets, CLASSES)


def overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def plainly(boxes: list[list[float]], padded: Size) -> list[int | None]:
    """Per anchor the box it learns, -1 for background, None for nothing at all."""
    anchors = octave_anchors(SIZES, STRIDES, 4.0, 3, [0.5, 1.0, 2.0], torch.zeros((), dtype=torch.float64))
    inside = [
        y * stride < padded[0] and x * stride < padded[1]
        for (height, width), stride in zip(SIZES, STRIDES, strict=True)
        for y in range(height)
        for x in range(width)
        for _ in range(9)
    ]
    table = [[overlap(box, anchor) for box in boxes] for anchor in anchors.boxes().tolist()]
    result: list[int | None] = []
    for row, valid in zip(table, inside, strict=True):
        best = max(row)
        result.append(None if not valid or 0.4 <= best < 0.5 else row.index(best) if best >= 0.5 else -1)
    for box in range(len(boxes)):
        most = max(row[box] for row, valid in zip(table, inside, strict=True) if valid)
        for anchor, row in enumerate(table):
            if inside[anchor] and row[box] == most > 0:
                result[anchor] = box
    return result


@pytest.mark.parametrize("padded", [(64, 96), (64, 64), (32, 96)])
def test_anchors_learn_the_boxes_that_the_plain_rule_gives_them(padded: Size) -> None:
    generator = torch.Generator().manual_seed(sum(padded))
    for _ in range(5):
        corner = torch.rand(4, 2, generator=generator, dtype=torch.float64) * 40
        boxes = torch.cat((corner, corner + 3 + 40 * torch.rand(4, 2, generator=generator, dtype=torch.float64)), dim=1)
        labels = torch.tensor([3, 1, 0, 2])
        found = assign(Targets([boxes], [labels], [padded], [padded]))
        for anchor, box in enumerate(plainly(boxes.tolist(), padded)):
            assert bool(found.label_weights[0, anchor]) == (box is not None)
            learns = box is not None and box >= 0
            assert int(found.labels[0, anchor]) == (int(labels[box]) if learns else CLASSES)
            if learns:
                assert torch.equal(found.boxes[0, anchor], boxes[box])
        assert found.positives.tolist() == [int((found.labels < CLASSES).sum())]


def test_each_box_is_learnt_even_one_that_overlaps_little() -> None:
    tiny = torch.tensor([[33.0, 33.0, 34.0, 34.0]])
    found = assign(Targets([tiny], [torch.tensor([2])], [(64, 96)], [(64, 96)]))
    assert found.positives[0] >= 1


def test_a_box_that_no_anchor_overlaps_takes_none() -> None:
    """With the reference's rule it would take every anchor that overlaps it as much: by nothing."""
    nowhere = torch.tensor([[500.0, 500.0, 520.0, 520.0]])
    found = assign(Targets([nowhere], [torch.tensor([2])], [(64, 96)], [(64, 96)]))
    assert found.positives.tolist() == [0]


def test_images_keep_to_themselves_and_may_be_empty() -> None:
    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    empty = Targets(
        [torch.zeros(0, 4), box], [torch.zeros(0, dtype=torch.long), torch.tensor([1])], [(64, 96)] * 2, [(64, 96)] * 2
    )
    found = assign(empty)
    assert found.positives[0] == 0
    assert found.label_weights[0].all()
    alone = assign(Targets([box], [torch.tensor([1])], [(64, 96)], [(64, 96)]))
    assert torch.equal(found.labels[1], alone.labels[0])
