"""LD against a plain transcription of arXiv 2102.12252."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from crosskd.distill.term import Step
from crosskd.spec.config import DistillConfig
from crosskd.spec.distill.pairing import resolve_pair
from crosskd.structures import Targets
from tests.support import small, steps

Box = list[float]


def overlaps(a: Box, b: Box) -> tuple[float, float]:
    """IoU and DIoU."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    iou = both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    return iou, iou - apart(a, b) ** 2 / diagonal


def apart(a: Box, b: Box) -> float:
    """Of the centres."""
    return math.dist(((a[0] + a[2]) / 2, (a[1] + a[3]) / 2), ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2))


def cells(padded: tuple[int, int]) -> list[tuple[int, Box, bool]]:
    """Level and box of each anchor, and whether it is in the image."""
    found = []
    for level, (height, width) in enumerate(steps.SIZES):
        stride = 8 * 2**level
        for i in range(height):
            for j in range(width):
                x, y, half = j * stride, i * stride, 4 * stride
                inside = i < math.ceil(padded[0] / stride) and j < math.ceil(padded[1] / stride)
                found.append((level, [x - half, y - half, x + half, y + half], inside))
    return found


def region(targets: Targets, gamma: float) -> list[list[float]]:
    """Algorithm 1, the threshold of ATSS for alpha_pos; each anchor's weight, the IoU of its best box."""
    images = []
    for boxes, padded in zip(targets.boxes, targets.padded, strict=True):
        anchors = cells(padded)
        weights = [0.0] * len(anchors)
        for box in boxes.tolist():
            candidates = []
            for level in range(5):
                nearest = sorted(
                    (apart(a, box), overlaps(a, box)[0]) for of, a, inside in anchors if of == level and inside
                )
                candidates += [iou for _, iou in nearest[:9]]
            alpha = statistics.mean(candidates) + statistics.stdev(candidates)
            for number, (_, anchor, inside) in enumerate(anchors):
                iou, diou = overlaps(anchor, box)
                if inside and gamma * alpha <= diou < alpha:
                    weights[number] = max(weights[number], iou)
        images.append(weights)
    return images


def expected(step: Step, temperature: float, gamma: float) -> tuple[list[float], list[float]]:
    """Both losses per level, without their weights: means over sides and bins, sums over anchors, two images."""
    ours, theirs = (view.head.codes(view.predictions).tolist() for view in (step.student, step.teacher))
    logits = step.student.head.logits(step.student.predictions).tolist()
    labels, valuable = step.student.assignment.labels.tolist(), region(step.targets, gamma)
    main, vlr = [0.0] * 5, [0.0] * 5
    for n in range(2):
        for a, (level, _, _) in enumerate(cells((64, 96))):
            distance = 0.0
            for side in range(4):
                p, q = (softmax(code[n][a][5 * side : 5 * side + 5], temperature) for code in (ours, theirs))
                distance += sum(y * math.log(y / x) for x, y in zip(p, q, strict=True)) * temperature**2 / 5
            if labels[n][a] < small.CLASSES:
                main[level] += distance / 4 / (1 + math.exp(-max(logits[n][a])))
            vlr[level] += distance / 16 * valuable[n][a]
    return main, vlr


def softmax(logits: list[float], temperature: float) -> list[float]:
    parts = [math.exp(logit / temperature) for logit in logits]
    return [part / sum(parts) for part in parts]


@pytest.mark.parametrize(("temperature", "gamma"), [(10.0, 0.25), (1.0, 0.5)])
def test_the_losses_are_the_papers(temperature: float, gamma: float) -> None:
    student, teacher = steps.detector(0, reg_max=4), steps.detector(1, reg_max=4)
    ld = steps.term("ld", student, teacher, main_weight=2, vlr_weight=3, temperature=temperature, gamma=gamma)
    step = steps.step(student, teacher)
    main, vlr = (torch.tensor(values, dtype=torch.float64) for values in expected(step, temperature, gamma))
    found = ld(step)
    assert set(found) == {"ld_main", "ld_vlr"}
    torch.testing.assert_close(found["ld_main"], 2 * main, **steps.TIGHT)
    torch.testing.assert_close(found["ld_vlr"], 3 * vlr, **steps.TIGHT)
    assert vlr.any()


def test_the_region_is_empty_where_it_begins_at_the_threshold() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    losses = steps.term("ld", student, teacher, gamma=1)(steps.step(student, teacher))
    assert not losses["ld_vlr"].any()
    assert losses["ld_main"].any()


def test_the_students_box_branch_learns_and_nothing_else() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    ld, step = steps.term("ld", student, teacher), steps.step(student, teacher)
    small.total(ld(step)).backward()
    for name, parameter in student.head.named_parameters():
        branch = name.partition(".")[0]
        if branch != "scales":  # of a level without positives it has nothing to learn
            learns = branch in {"box", "box_tower"}
            assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert ld.adapters() == {}


def test_without_boxes_there_is_nothing_to_learn() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    step = steps.step(student, teacher, steps.EMPTY)
    losses = steps.term("ld", student, teacher)(step)
    assert all(torch.equal(values, torch.zeros_like(values)) for values in losses.values())
    small.total(losses).backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in student.parameters())


@pytest.mark.parametrize(
    ("student", "teacher", "where"),
    [
        ({"detector": "atss"}, {"detector": "atss"}, ["/student/detector", "/distill/ld"]),
        ({}, {"detector": "fcos"}, ["/distill/ld"]),
        ({"reg_max": 4}, {}, ["/student/head/reg_max"]),
        ({"anchor_scale": 4.0}, {}, ["/student/anchor_scale"]),
        ({"strides": [8, 16, 32]}, {}, ["/student/strides"]),
        ({"channels": 8, "depth": 1}, {}, []),
    ],
)
def test_only_two_gfl_that_predict_the_same_things_are_accepted(
    student: dict[str, object], teacher: dict[str, object], where: list[str]
) -> None:
    _, misfits = resolve_pair(
        DistillConfig.model_validate({"ld": {}}), small.config(**student), small.config(**teacher)
    )
    assert [misfit.where for misfit in misfits] == where
    assert all(misfit.remedy for misfit in misfits)
