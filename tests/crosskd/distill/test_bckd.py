"""BCKD against a plain transcription of arXiv 2308.14286."""

from __future__ import annotations

import math

import pytest
import torch

from crosskd.structures import Targets
from tests.support import small, steps

Box = list[float]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(p: float, q: float) -> float:
    return -q * math.log(p) - (1 - q) * math.log(1 - p)


def giou(a: Box, b: Box) -> float:
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return both / union - (hull - union) / hull


@pytest.mark.parametrize("targets", [steps.TWO, steps.EMPTY], ids=["boxes", "no boxes"])
@pytest.mark.parametrize("detector", ["gfl", "retinanet"])
def test_the_losses_are_the_papers(detector: str, targets: Targets) -> None:
    student, teacher = (steps.detector(seed, detector=detector) for seed in (0, 1))
    bckd = steps.term("bckd", student, teacher, cls_weight=2, box_weight=3)
    step = steps.step(student, teacher, targets)
    assignment, sizes = step.student.assignment, step.student.assignment.level_sizes
    weights, level_of = assignment.label_weights.tolist(), [i for i, size in enumerate(sizes) for _ in range(size)]
    logits, boxes = (
        [made(view.predictions).tolist() for view in (step.student, step.teacher)]
        for made in (student.head.logits, student.head.decoded)
    )
    classes, overlaps = [0.0] * 5, [0.0] * 5
    for n, of_image in enumerate(weights):
        for a, weight in enumerate(of_image):
            if weight:
                pairs = [(sigmoid(x), sigmoid(y)) for x, y in zip(logits[0][n][a], logits[1][n][a], strict=True)]
                classes[level_of[a]] += sum(abs(p - q) * entropy(p, q) for p, q in pairs)
                apart = max(abs(p - q) for p, q in pairs)
                overlaps[level_of[a]] += apart * (1 - giou(boxes[0][n][a], boxes[1][n][a]))
    divisor = sum(max(1, count) for count in assignment.positives.tolist())
    found = bckd(step)
    assert set(found) == {"bckd_cls", "bckd_box"}
    for name, weight, values in (("bckd_cls", 2, classes), ("bckd_box", 3, overlaps)):
        expected = weight / divisor * torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-9)


def test_the_students_head_learns_from_every_level_and_the_teacher_not() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    bckd, step = steps.term("bckd", student, teacher), steps.step(student, teacher)
    small.total(bckd(step)).backward()
    learnt = [*student.head.parameters(), *step.student.features]
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in learnt)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert bckd.adapters() == {}


def test_how_far_the_classes_differ_weighs_boxes_and_learns_nothing_of_them() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    step = steps.step(student, teacher)
    losses = steps.term("bckd", student, teacher, cls_weight=0)(step)
    small.total(losses).backward()
    grown = {
        name.partition(".")[0] for name, p in student.head.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert grown == {"box", "box_tower", "scales"}
