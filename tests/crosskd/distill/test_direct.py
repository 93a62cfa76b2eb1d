"""Prediction mimicking against a plain transcription of the CrossKD paper's losses (arXiv 2306.11369)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from crosskd.distill.term import Step
from crosskd.losses import EPSILON
from crosskd.spec.alike import same_code
from crosskd.spec.config import DistillConfig, ModelConfig
from crosskd.spec.distill.pairing import resolve_pair
from tests.support import small, steps


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(logit: float, aim: float) -> float:
    return -aim * math.log(sigmoid(logit)) - (1 - aim) * math.log(1 - sigmoid(logit))


def at(step: Step, level: int) -> list[tuple[int, int]]:
    """The (image, anchor) of a level."""
    sizes = step.student.assignment.level_sizes
    start = sum(sizes[:level])
    return [(n, a) for n in range(2) for a in range(start, start + sizes[level])]


def divisor(step: Step) -> float:
    return sum(max(1, positives) for positives in step.student.assignment.positives.tolist()) + EPSILON


def class_losses(step: Step, beta: float) -> list[float]:
    """Sum of |p - q|^beta * BCE(z, q) over the anchors inside the image, per level."""
    ours, theirs = (view.head.logits(view.predictions).tolist() for view in (step.student, step.teacher))
    weights = step.student.assignment.label_weights.tolist()
    return [
        sum(
            weights[n][a] * abs(sigmoid(z) - sigmoid(y)) ** beta * entropy(z, sigmoid(y))
            for n, a in at(step, level)
            for z, y in zip(ours[n][a], theirs[n][a], strict=True)
        )
        / divisor(step)
        for level in range(5)
    ]


def worths(step: Step) -> dict[tuple[int, int], float]:
    logits = step.teacher.head.logits(step.teacher.predictions).tolist()
    weights = step.student.assignment.label_weights.tolist()
    return {(n, a): sigmoid(max(logits[n][a])) * (weights[n][a] > 0) for level in range(5) for n, a in at(step, level)}


def divergence(ours: list[float], theirs: list[float], temperature: float) -> float:
    def softmax(logits: list[float]) -> list[float]:
        parts = [math.exp(logit / temperature) for logit in logits]
        return [part / sum(parts) for part in parts]

    return (
        sum(q * (math.log(q) - math.log(p)) for q, p in zip(softmax(theirs), softmax(ours), strict=True))
        * temperature**2
    )


def giou_distance(a: list[float], b: list[float]) -> float:
    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return (x2 - x1) * (y2 - y1)

    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = max(area(*a) + area(*b) - width * height, 1e-6)
    hull = max(area(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])), 1e-6)
    return 1 - width * height / union + (hull - union) / hull


def test_the_losses_of_gfl_are_the_papers() -> None:
    student, teacher = steps.detector(0, reg_max=4), steps.detector(1, reg_max=4)
    direct = steps.term("direct", student, teacher, cls_weight=2, box_weight=3, temperature=1.5, beta=1.2)
    step, boxes = steps.step(student, teacher), []
    worth = worths(step)
    ours, theirs = (view.head.codes(view.predictions).tolist() for view in (step.student, step.teacher))
    for level in range(5):
        total = 0.0
        for n, a in at(step, level):
            for side in range(4):
                part = slice(5 * side, 5 * side + 5)
                total += worth[n, a] * divergence(ours[n][a][part], theirs[n][a][part], 1.5)
        boxes.append(3 * total / (4 + EPSILON) / sum(worth.values()))
    found = direct(step)
    assert set(found) == {"direct_cls", "direct_box"}
    classes = [2 * loss for loss in class_losses(step, beta=1.2)]
    torch.testing.assert_close(found["direct_cls"], torch.tensor(classes, dtype=torch.float64), **steps.TIGHT)
    torch.testing.assert_close(found["direct_box"], torch.tensor(boxes, dtype=torch.float64), **steps.TIGHT)


def test_the_losses_of_atss_are_the_papers() -> None:
    student, teacher = (steps.detector(seed, detector="atss") for seed in (0, 1))
    direct, step = (
        steps.term("direct", student, teacher, centerness_weight=2),
        steps.step(student, teacher),
    )
    worth, boxes, centres = worths(step), [], []
    ours, theirs = (view.head.decoded(view.predictions).tolist() for view in (step.student, step.teacher))
    logits = []
    for view in (step.student, step.teacher):
        assert view.predictions.centerness is not None
        logits.append(torch.cat([x.flatten(1) for x in view.predictions.centerness], dim=1).tolist())
    labels = step.student.assignment.labels
    for level in range(5):
        boxes.append(
            sum(worth[at_] * giou_distance(ours[at_[0]][at_[1]], theirs[at_[0]][at_[1]]) for at_ in at(step, level))
        )
        centres.append(
            sum(
                entropy(logits[0][n][a], sigmoid(logits[1][n][a]))
                for n, a in at(step, level)
                if labels[n, a] < small.CLASSES
            )
        )
    found = direct(step)
    expected = {
        "direct_cls": torch.tensor(class_losses(step, beta=1), dtype=torch.float64),
        "direct_box": torch.tensor(boxes, dtype=torch.float64) / divisor(step),
        "direct_centerness": 2 * torch.tensor(centres, dtype=torch.float64) / divisor(step),
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, **steps.TIGHT)
    assert found["direct_centerness"].any()


@pytest.mark.parametrize("name", ["gfl", "retinanet", "atss", "fcos"])
def test_all_of_the_students_head_learns_and_nothing_of_the_teachers(name: str) -> None:
    student, teacher = (steps.detector(seed, detector=name) for seed in (0, 1))
    direct, step = steps.term("direct", student, teacher, box="giou"), steps.step(student, teacher)
    small.total(direct(step)).backward()
    # FCOS alone imitates no centerness as published.
    silent = {"centerness.weight", "centerness.bias"} if name == "fcos" else set()
    for parameter, value in student.head.named_parameters():
        assert (value.grad is not None and bool(value.grad.any())) == (parameter not in silent), parameter
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert direct.adapters() == {}


def test_images_without_boxes_are_distilled_all_the_same() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    losses = steps.term("direct", student, teacher)(steps.step(student, teacher, steps.EMPTY))
    assert all(values.isfinite().all() and values.sum() > 0 for values in losses.values())


def test_weights_and_box_distance_are_those_published_for_the_detector() -> None:
    section = DistillConfig.model_validate({"direct": {"cls_weight": 0.1}})
    model = small.config(detector="fcos")
    direct = resolve_pair(section, model, model)[0].direct
    assert direct is not None
    assert (direct.cls_weight, direct.box_weight, direct.centerness_weight, direct.box) == (0.1, 0.75, 0.0, "iou")


@pytest.mark.parametrize(
    ("student", "teacher", "knobs", "where"),
    [
        ({}, {"detector": "atss"}, {}, "/student/detector"),
        ({"reg_max": 8}, {"reg_max": 16}, {}, "/student/head/reg_max"),
        ({"anchor_scale": 4.0}, {}, {}, "/student/anchor_scale"),
        ({"strides": [8, 16, 32]}, {}, {}, "/student/strides"),
        ({"detector": "atss"}, {"detector": "atss"}, {"box": "kl"}, "/distill/direct/box"),
        ({}, {}, {"centerness_weight": 1.0}, "/distill/direct/centerness_weight"),
        ({"depth": 1}, {"depth": 3}, {}, None),
        ({"channels": 8}, {"channels": 16}, {}, None),
    ],
)
def test_only_a_pair_that_predicts_the_same_things_is_accepted(
    student: dict[str, Any], teacher: dict[str, Any], knobs: dict[str, Any], where: str | None
) -> None:
    ours, theirs = small.config(**student), small.config(**teacher)
    _, misfits = resolve_pair(DistillConfig.model_validate({"direct": knobs}), ours, theirs)
    assert [misfit.where for misfit in misfits] == ([] if where is None else [where])
    assert all(misfit.remedy for misfit in misfits)
    assert same_code(ours, theirs) == (where is None or where.startswith("/distill"))


def test_a_retinanet_differs_by_its_anchors() -> None:
    ours, theirs = (
        ModelConfig.model_validate(
            {"detector": "retinanet", "backbone": {"name": "resnet_tiny"}, "head": {"octaves": octaves}}
        )
        for octaves in (3, 2)
    )
    _, misfits = resolve_pair(DistillConfig.model_validate({"direct": {}}), ours, theirs)
    assert [misfit.where for misfit in misfits] == ["/student/head/octaves"]
    assert "3 and 2" in misfits[0].what
