"""ATSS against a plain transcription of the paper's algorithm 1, anchor by anchor."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from crosskd.boxes.anchors import square_anchors
from crosskd.boxes.assign import INSIDE, TOP, atss
from crosskd.structures import Assignment, Size, Targets

STRIDES = [8, 16, 32]
SIZES = [(10, 12), (5, 6), (3, 3)]  # of a batch of 80 x 96 pixels
CLASSES = 4
Box = tuple[float, float, float, float]


def assign(targets: Targets, sizes: list[Size] = SIZES, strides: list[int] = STRIDES) -> Assignment:
    dtype = targets.boxes[0].dtype
    return atss(square_anchors(sizes, strides, 8.0, torch.zeros((), dtype=dtype)), sizes, strides, targets, CLASSES)


def overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def by_the_paper(boxes: list[Box], padded: Size) -> list[int]:
    """Per anchor, the index of the box it learns, or -1."""
    anchors: list[list[Box | None]] = []  # per level; None in the padding
    for (height, width), stride in zip(SIZES, STRIDES, strict=True):
        anchors.append([])
        for y in range(height):
            for x in range(width):
                inside = y * stride < padded[0] and x * stride < padded[1]
                half = 4 * stride
                box = (x * stride - half, y * stride - half, x * stride + half, y * stride + half)
                anchors[-1].append(box if inside else None)
    flat = [anchor for level in anchors for anchor in level]
    owner, best = [-1] * len(flat), [0.0] * len(flat)
    for number, box in enumerate(boxes):
        candidates, start = [], 0
        for level in anchors:
            distance = {
                start + i: math.dist(
                    ((a[0] + a[2]) / 2, (a[1] + a[3]) / 2), ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                )
                for i, a in enumerate(level)
                if a is not None
            }
            candidates += sorted(distance, key=distance.__getitem__)[:TOP]
            start += len(level)
        overlaps = {i: overlap(flat[i], box) for i in candidates}  # type: ignore[arg-type]
        threshold = statistics.mean(overlaps.values()) + statistics.stdev(overlaps.values())
        for i, value in overlaps.items():
            anchor = flat[i]
            assert anchor is not None
            x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > INSIDE
            if value >= threshold and inside and (owner[i] == -1 or value > best[i]):
                owner[i], best[i] = number, value
    return owner


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_algorithm_of_the_paper(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    padded: list[Size] = [(80, 96), (64, 64), (80, 96), (32, 96)]
    boxes, labels = [], []
    for count, (height, width) in zip((5, 3, 0, 4), padded, strict=True):
        corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([width, height]) * 0.6
        extent = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([width, height]) * 0.5
        boxes.append(torch.cat((corner, corner + extent + 4), dim=1))
        labels.append(torch.randint(CLASSES, (count,), generator=generator))
    result = assign(Targets(boxes, labels, padded, padded))
    for image in range(4):
        owner = by_the_paper([tuple(b) for b in boxes[image].tolist()], padded[image])
        expected = [CLASSES if number < 0 else int(labels[image][number]) for number in owner]
        assert result.labels[image].tolist() == expected
        assert result.positives[image] == sum(number >= 0 for number in owner)
        for anchor, number in enumerate(owner):
            wanted = boxes[image][number].tolist() if number >= 0 else [0, 0, 0, 0]
            assert result.boxes[image, anchor].tolist() == wanted
    assert any(result.positives)


def test_padding_has_no_weight_and_no_positives() -> None:
    box = torch.tensor([[20.0, 10.0, 90.0, 70.0]])
    result = assign(Targets([box, box], [torch.tensor([1])] * 2, [(80, 96), (60, 40)], [(80, 96), (64, 64)]))
    first, second = result.label_weights
    assert first.all()
    level = second[:120].view(10, 12)
    assert level[:8, :8].all()
    assert not level[8:].any()
    assert not level[:, 8:].any()
    assert not ((result.labels[1] < CLASSES) & (second == 0)).any()


def test_an_anchor_claimed_twice_goes_to_the_larger_overlap_and_then_to_the_first_box() -> None:
    box = [16.0, 16.0, 80.0, 80.0]
    smaller = [24.0, 24.0, 72.0, 72.0]
    labels = torch.tensor([3, 1, 2])
    size = [(80, 96)]
    result = assign(Targets([torch.tensor([smaller, box, box])], [labels], size, size))
    anchor = 6 * 12 + 6  # centred on both, and exactly as large as the larger
    assert result.labels[0, anchor] == 1


def test_a_box_without_area_and_a_batch_without_boxes_teach_nothing() -> None:
    size = [(80, 96)]
    flat = Targets([torch.tensor([[10.0, 10.0, 10.0, 50.0]])], [torch.tensor([0])], size, size)
    none = Targets([torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.long)], size, size)
    for targets in (flat, none):
        result = assign(targets)
        assert result.positives.tolist() == [0]
        assert (result.labels == CLASSES).all()
        assert not result.boxes.any()


def test_a_single_candidate_has_no_spread() -> None:
    targets = Targets([torch.tensor([[-4.0, -4.0, 6.0, 6.0]])], [torch.tensor([2])], [(8, 8)], [(8, 8)])
    assert assign(targets, [(1, 1)], [8]).labels.tolist() == [[2]]
