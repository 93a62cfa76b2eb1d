"""GID against a plain transcription of what is known of arXiv 2103.02340."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, roi_align

from crosskd.distill.instances import general_instances
from crosskd.distill.term import Step
from crosskd.structures import Targets
from tests.support import small, steps

Box = list[float]
NAMES = ["gid_feature", "gid_relation", "gid_cls", "gid_box"]


def iou(a: Box, b: Box) -> float:
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def probabilities(step: Step) -> list[list[list[list[float]]]]:
    head = step.student.head
    return [head.logits(view.predictions).sigmoid().tolist() for view in (step.student, step.teacher)]


def instances(step: Step, keep: int, threshold: float) -> list[list[tuple[Box, int]]]:
    """GISM, of each image: boxes and classes, best first."""
    head, images = step.student.head, []
    p, q = probabilities(step)
    boxes = [head.decoded(view.predictions).tolist() for view in (step.student, step.teacher)]
    for n, (height, width) in enumerate(step.targets.sizes):
        candidates = []
        for a in range(len(p[n])):
            apart = [abs(x - y) for x, y in zip(p[n][a], q[n][a], strict=True)]
            x1, y1, x2, y2 = boxes[max(q[n][a]) > max(p[n][a])][n][a]
            box = [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
            if box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
                candidates.append((max(apart), box, apart.index(max(apart))))
        taken: list[tuple[Box, int]] = []
        for _, box, label in sorted(candidates, key=lambda found: -found[0]):
            if len(taken) < keep and all(iou(box, other) <= threshold for other, _ in taken):
                taken.append((box, label))
        images.append(taken)
    return images


def pooled(maps: list[Tensor], n: int, box: Box) -> list[float]:
    level = min(max(math.floor(4 + math.log2(math.sqrt((box[2] - box[0]) * (box[3] - box[1])) / 224)) - 3, 0), 4)
    rows = torch.tensor([[n, *box]], dtype=torch.float64)
    cells = roi_align(maps[level], rows, 10, spatial_scale=1 / (8 * 2**level), sampling_ratio=2, aligned=True)
    found: list[float] = cells.flatten().tolist()
    return found


def smooth(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


@pytest.mark.parametrize("detector", ["gfl", "retinanet"])
def test_the_losses_are_the_papers(detector: str) -> None:
    student, teacher = (steps.detector(seed, channels=8, detector=detector) for seed in (0, 1))
    knobs = {"feature_weight": 2, "relation_weight": 3, "cls_weight": 5, "box_weight": 7, "instances": 4}
    gid, step = steps.term("gid", student, teacher, **knobs), steps.step(student, teacher)
    chosen = instances(step, keep=4, threshold=0.3)
    assert min(len(taken) for taken in chosen) > 2
    adapted = [gid.get_submodule(f"adapt.{level}")(maps) for level, maps in enumerate(step.student.features)]
    feature = relation = 0.0
    for n, taken in enumerate(chosen):
        s, t = ([pooled(maps, n, box) for box, _ in taken] for maps in (adapted, step.teacher.features))
        feature += sum(math.dist(x, y) ** 2 for x, y in zip(s, t, strict=True)) / len(taken)
        pairs = [(i, j) for i in range(len(taken)) for j in range(len(taken)) if i != j]
        means = [sum(math.dist(x[i], x[j]) for i, j in pairs) / len(pairs) for x in (s, t)]
        apart = [math.dist(s[i], s[j]) / means[0] - math.dist(t[i], t[j]) / means[1] for i, j in pairs]
        relation += sum(map(smooth, apart)) / len(pairs)
    boxes = [torch.tensor([box for box, _ in taken], dtype=torch.float64) for taken in chosen]
    labels = [torch.tensor([label for _, label in taken]) for taken in chosen]
    truth = Targets(boxes, labels, step.targets.sizes, step.targets.padded)
    assignment = student.head.assign(step.student.predictions, truth)
    classes, overlaps, count = [0.0] * 5, [0.0] * 5, 0
    decoded = [student.head.decoded(view.predictions).detach() for view in (step.student, step.teacher)]
    p, q = probabilities(step)
    level_of = [level for level, size in enumerate(assignment.level_sizes) for _ in range(size)]
    for n, of_image in enumerate(assignment.labels.tolist()):
        for a, label in enumerate(of_image):
            if label < small.CLASSES:
                count += 1
                said = zip(p[n][a], q[n][a], strict=True)
                classes[level_of[a]] -= sum(y * math.log(x) + (1 - y) * math.log(1 - x) for x, y in said)
                overlaps[level_of[a]] += float(generalized_box_iou_loss(decoded[0][n, a], decoded[1][n, a]))
    found = gid(step)
    expected = [
        2 * feature / 2,
        3 * relation / 2,
        *([w * x / count for x in v] for w, v in ((5, classes), (7, overlaps))),
    ]
    assert list(found) == NAMES
    for name, values in zip(NAMES, expected, strict=True):
        torch.testing.assert_close(
            found[name].detach(), torch.tensor(values, dtype=torch.float64), rtol=1e-5, atol=1e-9
        )
    assert all(values.any() for values in found.values())


@pytest.mark.parametrize(("threshold", "keep"), [(0.3, 10), (0.7, 3)])
def test_instances_are_those_on_which_both_differ_most(threshold: float, keep: int) -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    step = steps.step(student, teacher)
    views = (step.student.predictions, step.teacher.predictions)
    found = general_instances(student.head, *views, step.targets.sizes, keep=keep, nms_iou=threshold)
    expected = instances(step, keep, threshold)
    assert [image.labels.tolist() for image in found] == [[label for _, label in image] for image in expected]
    for image, taken in zip(found, expected, strict=True):
        torch.testing.assert_close(image.boxes, torch.tensor([box for box, _ in taken], dtype=torch.float64))
    alike = general_instances(student.head, views[0], views[0], step.targets.sizes, keep=keep, nms_iou=threshold)
    assert all(len(image.boxes) <= keep for image in alike)


def test_one_instance_has_no_relation_and_the_student_alone_learns() -> None:
    student, teacher = steps.detector(0), steps.detector(1, channels=16)
    gid, step = steps.term("gid", student, teacher, instances=1), steps.step(student, teacher)
    losses = gid(step)
    assert not losses["gid_relation"].any()
    small.total(losses).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    learnt = [
        p for part in ("cls", "box", "cls_tower", "box_tower") for p in student.head.get_submodule(part).parameters()
    ]
    assert all(p.grad is not None and p.grad.any() for p in learnt)
    assert any(p.grad is not None and p.grad.any() for p in gid.parameters())
