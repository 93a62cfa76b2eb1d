"""CrossKD in RTMDet's head, written out: shared convolutions, the level's own norms, SiLU once, boxes decoded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from crosskd.boxes.anchors import cell_points
from crosskd.detectors.detector import Detector
from crosskd.distill.statistics import match_statistics
from crosskd.losses import EPSILON
from crosskd.structures import Predictions
from tests.support import small
from tests.support.steps import batch, distiller

STRIDES = (8, 16, 32)


def model(seed: int, size: str = "tiny", **options: Any) -> Detector:
    """With CSPNeXt and its neck; running statistics far from their start."""
    backbone = {"name": f"cspnext_{size}", "width": 8}
    made = small.detector(seed, channels=16, depth=2, detector="rtmdet", backbone=backbone, **options)
    return small.shaken(made, seed)


def rest(teacher: Detector, tower: str, level: int, x: Tensor, cut: int) -> Tensor:
    """The teacher's convolutions behind the cut with the norms of this level, by their running statistics."""
    for conv in list(teacher.head.get_submodule(tower))[cut:]:
        norm = conv.norm[level]
        x = F.conv2d(x, conv.conv.weight, padding=1)
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps)
        x = x * x.sigmoid()
    return x


def decoded(codes: Tensor, level: int) -> Tensor:
    points = cell_points([codes.shape[-2:]], [STRIDES[level]], 0.0, codes).centres
    sides = codes.permute(0, 2, 3, 1).reshape(len(codes), -1, 4)
    return torch.cat((points - sides[..., :2], points + sides[..., 2:]), dim=-1)


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_the_cross_head_is_the_teachers_on_aligned_maps(cut: int, after: bool) -> None:
    student, teacher = model(0), model(1, head={"exp_on_reg": True})
    images, targets = batch()
    pair = distiller(student, teacher, crosskd={"cut": cut, "after_relu": after, "cls_weight": 0.5, "box_weight": 3.0})
    kept = {name: buffer.clone() for name, buffer in teacher.named_buffers()}
    losses = pair(images, targets)
    with torch.no_grad():
        features = teacher.features(images)
        predicted = teacher.head(features)
        theirs = teacher.head.front(features, cut, after_relu=after)
        quality = teacher.head.assign(predicted, targets)
        valid = quality.label_weights.split(quality.level_sizes, dim=1)
        assert quality.quality is not None
        divisor = max(1.0, quality.quality.sum().item()) + EPSILON
        ours = student.head.front(student.features(images), cut, after_relu=after)
        for level, stride in enumerate(STRIDES):
            maps = {}
            for branch, mine, other in (("cls", ours.cls, theirs.cls), ("box", ours.box, theirs.box)):
                x = match_statistics(mine[level], like=other[level])
                x = F.silu(x) if cut and not after else x  # never twice
                layer = teacher.head.get_submodule(f"{branch}.{level}")
                maps[branch] = F.conv2d(rest(teacher, f"{branch}_tower", level, x, cut), layer.weight, layer.bias)
            z, v = (maps["cls"], predicted.cls[level])
            entropy = F.binary_cross_entropy_with_logits(z, v.sigmoid(), reduction="none")
            weight = valid[level].reshape(len(images), 1, *z.shape[-2:])
            focal = (entropy * (z.sigmoid() - v.sigmoid()).abs() * weight).sum()
            torch.testing.assert_close(losses["crosskd_cls"][level], 0.5 * focal / divisor, rtol=1e-9, atol=1e-12)
            boxes = [decoded(maps["box"].exp() * stride, level), decoded(predicted.box[level], level)]
            worth = v.sigmoid().amax(1).flatten(1) * valid[level]
            overlap = (generalized_box_iou_loss(*boxes) * worth).sum()
            torch.testing.assert_close(losses["crosskd_box"][level], 3 * overlap / divisor, rtol=1e-6, atol=1e-9)
    assert all(torch.equal(kept[name], buffer) for name, buffer in teacher.named_buffers())


def test_a_student_that_is_its_teacher_is_taught_nothing_about_boxes() -> None:
    """In evaluation mode both make the same maps; many of these boxes have negative sides."""
    student, teacher = model(0), model(0)
    pair = distiller(student, teacher, crosskd={"cut": 1}).eval()
    losses = pair(*batch())
    assert losses["crosskd_cls"].abs().max() < 1e-4
    assert losses["crosskd_box"].abs().max() < 1e-3  # of boxes of a thousandth of a pixel: rounding moves these


def test_boxes_with_negative_sides_are_neither_imitated_nor_rewarded() -> None:
    head = model(0).head
    sizes, generator = [(8, 12), (4, 6), (2, 3)], torch.Generator().manual_seed(0)
    ours, theirs = (
        Predictions(
            [torch.zeros(1, small.CLASSES, *size, dtype=torch.float64) for size in sizes],
            [30 * torch.randn(1, 4, *size, generator=generator, dtype=torch.float64) for size in sizes],
        )
        for _ in range(2)
    )
    found = head.box_distance(ours, theirs, "giou", 1.0)
    boxes = head.decoded(theirs)
    there = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    assert there.any()
    assert not there.all()
    assert not found[~there].any()
    assert found.min() >= 0
    assert found.max() <= 2
    proper = Predictions(ours.cls, [codes.abs() for codes in ours.box])
    expected = generalized_box_iou_loss(head.decoded(proper)[there], boxes[there])
    torch.testing.assert_close(head.box_distance(proper, theirs, "giou", 1.0)[there], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("detector", ["rtmdet", "gfl", "fcos"])
def test_other_methods_and_other_detectors_work_beside_it(detector: str) -> None:
    """Student and teacher of another size, and of another detector of the same levels."""
    teacher = model(1, "s")
    if detector == "rtmdet":
        student = model(0, head={"channels": 24})
    else:
        student = small.detector(0, channels=16, depth=2, detector=detector, strides=list(STRIDES)).double()
    pair = distiller(student, teacher, crosskd={}, pkd={}, fitnet={}, fgd={}, mgd={}, cwd={})
    losses = pair(*batch())
    assert {"crosskd_cls", "crosskd_box", "pkd"} <= losses.keys()
    assert all(values.shape == (3,) and values.isfinite().all() for values in losses.values())
    small.total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.backbone.parameters())


def test_predictions_are_imitated_whatever_their_distances_are_made_of() -> None:
    pair = distiller(model(0), model(1, "s", head={"exp_on_reg": True}), direct={})
    losses = pair(*batch())
    assert losses["direct_cls"].sum() > 0
    assert losses["direct_box"].sum() > 0
