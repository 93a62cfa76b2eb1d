"""What two detectors have in common: their anchors, and what they predict of them. Imports no torch."""

from __future__ import annotations

from crosskd.spec import registry
from crosskd.spec.model import ModelConfig


def same_anchors(student: ModelConfig, teacher: ModelConfig) -> bool:
    """Whether every anchor of the one is the same anchor of the other, and of the same rule of assignment."""
    return _anchor_facts(student) == _anchor_facts(teacher)


def same_assignment(student: ModelConfig, teacher: ModelConfig) -> bool:
    """Whether, besides, each learns the same box: not where an assignment looks at what is predicted."""
    return same_anchors(student, teacher) and not registry.DETECTORS[student.detector].dynamic


def same_code(student: ModelConfig, teacher: ModelConfig) -> bool:
    """Whether, besides, both predict the same things of an anchor in the same way."""
    return layer_facts(student) == layer_facts(teacher)


def code_facts(model: ModelConfig) -> dict[str, object]:
    """All that decides a detector's anchors, their assignment and their code, by its place in the section."""
    head = model.head
    return {**_anchor_facts(model), "head/reg_max": head.reg_max, "head/norm_on_bbox": head.norm_on_bbox}


def layer_facts(model: ModelConfig) -> dict[str, object]:
    """And what its box layers say of that code: two may learn from each other that differ in this alone."""
    stds = None if model.regions is None else list(model.regions.box_stds)
    return {**code_facts(model), "head/exp_on_reg": model.head.exp_on_reg, "regions/box_stds": stds}


def _anchor_facts(model: ModelConfig) -> dict[str, object]:
    head = model.head
    return {
        "detector": model.detector,
        "strides": model.strides,
        "anchor_scale": model.anchor_scale,
        "head/spread_cells": head.spread_cells,
        "head/octaves": head.octaves,
        "head/ratios": head.ratios,
        "head/whole_pixel_anchors": head.whole_pixel_anchors,
        "head/center_sampling": head.center_sampling,
        "head/center_radius": head.center_radius,
        "head/point_offset": head.point_offset,
    }
