"""CrossKD in YOLOX's head, written out: towers of each level's own, SiLU once, and what objectness weighs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from crosskd.boxes.anchors import cell_points
from crosskd.detectors.detector import Detector
from crosskd.distill.statistics import match_statistics
from crosskd.errors import ConfigError
from crosskd.losses import EPSILON
from tests.support import small
from tests.support.steps import batch, distiller

STRIDES = (8, 16, 32)
WEIGHTS = {"cls_weight": 0.5, "box_weight": 3.0, "objectness_weight": 2.0}


def model(seed: int, size: str = "nano", **options: Any) -> Detector:
    """With CSPDarknet and its neck; running statistics far from their start."""
    backbone = {"name": f"cspdarknet_{size}", "width": 8}
    made = small.detector(seed, channels=16, depth=2, detector="yolox", backbone=backbone, **options)
    return small.shaken(made, seed)


def normed(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps)


def rest(teacher: Detector, tower: str, level: int, x: Tensor, cut: int) -> Tensor:
    """The teacher's convolutions of this level behind the cut, in two steps each, by their running statistics."""
    for place in list(teacher.head.get_submodule(tower))[cut:]:
        conv = place.conv[level]
        x = F.silu(normed(conv.depthwise_norm, F.conv2d(x, conv.depthwise.weight, padding=1, groups=x.shape[1])))
        x = F.silu(normed(conv.pointwise_norm, F.conv2d(x, conv.pointwise.weight)))
    return x


def predicted(teacher: Detector, name: str, level: int, x: Tensor) -> Tensor:
    layer = teacher.head.get_submodule(f"{name}.{level}")
    return F.conv2d(x, layer.weight, layer.bias).permute(0, 2, 3, 1).flatten(1, 2)  # [N, A_l, channels]


def decoded(codes: Tensor, level: int, size: torch.Size) -> Tensor:
    stride = STRIDES[level]
    centre = cell_points([tuple(size)], [stride], 0.0, codes).centres + codes[..., :2] * stride
    half = codes[..., 2:].exp() * stride / 2
    return torch.cat((centre - half, centre + half), dim=-1)


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_the_cross_head_is_the_teachers_on_aligned_maps(cut: int, after: bool) -> None:
    student, teacher = model(0), model(1)
    images, targets = batch()
    kept = {name: buffer.clone() for name, buffer in teacher.named_buffers()}
    losses = distiller(student, teacher, crosskd={"cut": cut, "after_relu": after, **WEIGHTS})(images, targets)
    with torch.no_grad():
        features = teacher.features(images)
        said = teacher.head(features)
        theirs = teacher.head.front(features, cut, after_relu=after)
        ours = student.head.front(student.features(images), cut, after_relu=after)
        divisor = max(1, int(teacher.head.assign(said, targets).positives.sum())) + EPSILON
        for level in range(len(STRIDES)):
            crossed = {}
            for tower, mine, other in (("cls_tower", ours.cls, theirs.cls), ("box_tower", ours.box, theirs.box)):
                x = match_statistics(mine[level], like=other[level])
                x = F.silu(x) if cut and not after else x  # never twice
                crossed[tower] = rest(teacher, tower, level, x, cut)
            z, u, codes = (
                predicted(teacher, name, level, crossed[tower])
                for name, tower in (("cls", "cls_tower"), ("objectness", "box_tower"), ("box", "box_tower"))
            )
            v, w, aims = (x[level].permute(0, 2, 3, 1).flatten(1, 2) for x in (said.cls, said.objectness, said.box))
            there = w.sigmoid()[..., 0]
            entropy = F.binary_cross_entropy_with_logits(z, v.sigmoid(), reduction="none")
            classes = ((entropy * (z.sigmoid() - v.sigmoid()).abs()).sum(-1) * there).sum()
            objects = F.binary_cross_entropy_with_logits(u, w.sigmoid(), reduction="sum")
            size = said.box[level].shape[-2:]
            overlap = generalized_box_iou_loss(decoded(codes, level, size), decoded(aims, level, size))
            boxes = (overlap * there * v.sigmoid().amax(-1)).sum()
            expected = {"cls": 0.5 * classes, "objectness": 2 * objects, "box": 3 * boxes}
            for name, value in expected.items():
                found = losses[f"crosskd_{name}"][level]
                torch.testing.assert_close(found, value / divisor, rtol=1e-6, atol=1e-9)
    assert all(torch.equal(kept[name], buffer) for name, buffer in teacher.named_buffers())


def test_a_student_that_is_its_teacher_is_taught_nothing() -> None:
    """In evaluation mode both make the same maps: the gradient vanishes, the entropy of objectness stays."""
    student, teacher = model(0), model(0)
    losses = distiller(student, teacher, crosskd={"cut": 1}).eval()(*batch())
    assert losses["crosskd_cls"].abs().max() < 1e-4
    assert losses["crosskd_box"].abs().max() < 1e-4
    small.total({name: values for name, values in losses.items() if name.startswith("crosskd")}).backward()
    gradients = [p.grad.abs().max() for p in student.parameters() if p.grad is not None]
    assert gradients
    assert max(gradients) < 1e-3


@pytest.mark.parametrize(("ours", "theirs"), [("yolox", "rtmdet"), ("rtmdet", "yolox"), ("gfl", "yolox")])
def test_other_methods_and_other_detectors_work_beside_it(ours: str, theirs: str) -> None:
    made = [
        model(seed, "s")
        if name == "yolox"
        else small.detector(seed, channels=16, depth=2, detector=name, strides=list(STRIDES)).double()
        for seed, name in enumerate((ours, theirs))
    ]
    pair = distiller(*made, crosskd={}, pkd={}, fitnet={}, fgd={}, mgd={}, cwd={})
    losses = pair(*batch())
    assert ("crosskd_objectness" in losses) == (theirs == "yolox")
    assert all(values.shape == (3,) and values.isfinite().all() for values in losses.values())
    small.total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.student.backbone.parameters())


def test_predictions_are_imitated_directly_of_the_same_detector_alone() -> None:
    losses = distiller(model(0), model(1, "s"), direct={}, bckd={}, gid={})(*batch())
    names = {f"direct_{name}" for name in ("cls", "box", "objectness")}
    names |= {"bckd_cls", "bckd_box", "gid_feature", "gid_cls", "gid_box"}
    assert all(losses[name].sum() > 0 for name in names)
    other = small.detector(0, channels=16, depth=2, strides=list(STRIDES))
    with pytest.raises(ConfigError, match=r"anchor by anchor, but they differ in detector: gfl and yolox"):
        distiller(other, model(1), direct={})
    with pytest.raises(ConfigError, match="a gfl teacher predicts no objectness") as caught:
        distiller(model(1), other, crosskd={"objectness_weight": 1.0})
    assert caught.value.where == "/distill/crosskd/objectness_weight"
    with pytest.raises(ConfigError, match="which a yolox student does not predict"):
        distiller(model(0), model(1), ld={})
