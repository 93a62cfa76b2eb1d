"""A student that begins with its teacher's weights wherever they fit (inheriting strategy, arXiv 2110.12724)."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from crosskd.detectors.detector import Detector
from crosskd.spec.config import ModelConfig

log = logging.getLogger(__name__)

PARTS = ("backbone", "neck", "head")
BOX_LAYERS = ("head.box.", "head.centerness.", "head.objectness.", "head.scales.")


def inherit(student: Detector, teacher: Detector, *, copy: bool = True) -> list[str]:
    """Copy into `student` every tensor of `teacher` that fits; the names of these, in the student's order.

    A tensor fits by name and shape, if it also means the same: the backbone's where both have the same one and see
    the same pixels, since single layers of another one are of no use; the box layers' where both predict boxes in
    the same code. `teacher` knows the student's classes in its order. `copy=False` only tells the names: a resumed
    student has long moved on.
    """
    ours, theirs = student.state_dict(), teacher.state_dict()
    fitting = [
        name
        for name, value in ours.items()
        if name in theirs and value.shape == theirs[name].shape and _means_the_same(name, student, teacher)
    ]
    if copy:
        with torch.no_grad():
            for name in fitting:
                ours[name].copy_(theirs[name])
    counts = ", ".join(f"{part} {_count(part, fitting)} of {_count(part, ours)}" for part in PARTS)
    log.info("the student %s the teacher's tensors where they fit: %s", "begins with" if copy else "began with", counts)
    return fitting


def _count(part: str, names: Iterable[str]) -> int:
    return sum(_in(part, name) for name in names)


def _in(part: str, name: str) -> bool:
    return name.startswith(f"{part}.")


def _means_the_same(name: str, student: Detector, teacher: Detector) -> bool:
    if _in("backbone", name):
        return _seen(student.config) == _seen(teacher.config)
    if student.config.family == "detr" and _in("head", name):
        return student.config.detector == teacher.config.detector
    if name.startswith(BOX_LAYERS):
        return _box_code(student.config) == _box_code(teacher.config)
    if name.startswith("head.cls."):
        return _anchors(student.config) == _anchors(teacher.config)
    return True


def _seen(model: ModelConfig) -> tuple[object, ...]:
    backbone = model.backbone
    return (backbone.name, backbone.width, backbone.style, backbone.vit, model.pixels)


def _anchors(model: ModelConfig) -> tuple[object, ...]:
    """What tells the anchors of one cell apart, where there are several."""
    return (model.head.octaves, model.head.ratios) if model.anchors_per_cell > 1 else ()


def _box_code(model: ModelConfig) -> tuple[object, ...]:
    return (model.detector, model.anchor_scale, model.head.norm_on_bbox, model.head.exp_on_reg, *_anchors(model))
