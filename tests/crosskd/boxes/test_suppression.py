"""Suppression against a plain transcription, class by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from crosskd.boxes.suppression import class_nms, suppress

FAR = [1283.0, 750.0, 1333.0, 800.0]  # a corner of the image: torchvision moves classes apart by the largest coordinate


def plainly(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> list[int]:
    """Which are left, in float32 step by step."""
    kept: dict[int, list[int]] = {}
    corners, values, classes = boxes.numpy().astype(np.float32), scores.tolist(), labels.tolist()
    for row in sorted(range(len(values)), key=lambda i: (-values[i], i)):
        a, better = corners[row], corners[kept.setdefault(classes[row], [])]
        sides = np.maximum(np.minimum(a[2:], better[:, 2:]) - np.maximum(a[:2], better[:, :2]), 0)
        shared = sides[:, 0] * sides[:, 1]
        areas = (better[:, 2] - better[:, 0]) * (better[:, 3] - better[:, 1])
        if not (shared / ((a[2] - a[0]) * (a[3] - a[1]) + areas - shared) > np.float32(threshold)).any():
            kept[classes[row]].append(row)
    return sorted((row for rows in kept.values() for row in rows), key=lambda i: (-values[i], i))


@pytest.mark.parametrize("label", [0, 79, 1202])
@pytest.mark.parametrize(("height", "left"), [(5.0, 2), (5.001, 1), (4.999, 2)])
def test_no_class_is_rounded(label: int, height: float, left: int) -> None:
    """An IoU of `height` tenths; moved by 1,202 classes, to a place where numbers lie 0.125 apart, all are 0.5."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, height], FAR])
    labels = torch.tensor([label, label, 1203])
    assert len(suppress(boxes, torch.tensor([0.9, 0.8, 0.1]), labels, 0.5)) == left + 1


@pytest.mark.parametrize("count", [0, 1, 60, 700, 1500])  # of torchvision's, 1,001 and more go another way on the CPU
@pytest.mark.parametrize("classes", [1, 80, 1203])
def test_it_is_the_plain_rule_whatever_the_number_of_candidates(count: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(count + classes)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([60.0 * classes**0.5, 800.0])
    boxes = torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=generator) * 60), dim=1)
    # On a grid of eighths and of hundredths: overlaps at the threshold, and equal scores, are common.
    boxes, scores = (boxes * 8).round() / 8, (torch.rand(count, generator=generator) * 100).round() / 100
    labels = torch.randint(0, classes, (count,), generator=generator)
    assert suppress(boxes, scores, labels, 0.6).tolist() == plainly(boxes, scores, labels, 0.6)


def test_the_threshold_is_onnxs_float32() -> None:
    """An IoU of 0.6 as float32 has it is more than 0.6, and not above the threshold."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 6.0]])
    assert len(suppress(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), 0.6)) == 2


def test_it_drops_empty_boxes_and_keeps_the_best() -> None:
    box = [10.0, 10.0, 20.0, 20.0]
    boxes = torch.tensor([box, box, box, [30.0, 30.0, 40.0, 40.0], [5.0, 5.0, 5.0, 9.0]])
    scores, labels = torch.tensor([0.5, 0.9, 0.8, 0.3, 0.99]), torch.tensor([0, 0, 1, 0, 0])
    found = class_nms(boxes, scores, labels, threshold=0.5, keep=100)
    assert found.labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.3]))
    assert len(class_nms(boxes, scores, labels, threshold=0.5, keep=2).scores) == 2
