"""The detector of a proposal: which one, how wide, which levels and anchors. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from crosskd.spec.model import PYRAMID, ModelConfig
from crosskd.spec.proposal.goals import Goal
from crosskd.spec.proposal.sizes import Size
from crosskd.spec.proposal.statistics import Statistics
from crosskd.spec.proposal.text import Said, Tree
from crosskd.spec.regions import STRIDES as REGION_STRIDES

DetectorChoice = Literal["gfl", "retinanet", "atss", "fcos", "faster_rcnn"]
DETECTORS: tuple[DetectorChoice, ...] = get_args(DetectorChoice)
RECIPES = "gfl"  # the detector of the goals' recipes
ALWAYS_HELD = 4.0  # height over width, or its inverse: an anchor of ratio 2 covers such a box with an IoU of 0.55
HALF = math.sqrt(0.5)  # a square of this share of an anchor's side overlaps it with an IoU of 0.5
MOST_OCTAVES = 6  # ratios from 1/64 to 64

IMAGENET = Said(
    "imagenet",
    "torchvision's weights. The worker fetches them once, unless they are in its cache; without a network, name a "
    "file: {file: ...}.",
)


def choose_detector(asked: DetectorChoice | None, size: Size) -> Said:
    """By the smallest objects, where none is asked for."""
    if asked is not None:
        return Said(asked, "As asked for.")
    finest = PYRAMID[0]
    if size.small < finest:
        why = (
            f"The smallest objects have {size.small:.3g} pixels when trained: less than a cell of stride {finest}, the "
            f"finest of the dense detectors. Faster R-CNN begins at stride {REGION_STRIDES[0]}."
        )
        return Said("faster_rcnn", why)
    why = (
        f"The smallest objects have {size.small:.3g} pixels when trained: a cell of stride {finest}, the finest of a "
        "dense detector, or more. GFL is the one whose gain by CrossKD was measured here, and is published."
    )
    return Said("gfl", why)


def student(detector: Said, goal: Goal, size: Size, statistics: Statistics, init: Path | None) -> Tree:
    """The section of a detector whose size is the goal's."""
    narrow = (
        {"channels": Said(goal.channels)} if goal.channels != ModelConfig.model_fields["neck"].default.channels else {}
    )
    tree: Tree = {"detector": detector, "backbone": backbone(goal.student, detector.value, goal, init)}
    if narrow:
        tree["neck"] = Said(narrow, f"As narrow as in the recipe {goal.recipe}.")
    if detector.value == "faster_rcnn":
        if narrow:
            small = {"channels": 128, "samples": 128, "train_proposals": 300, "proposals": 200}
            tree["regions"] = Said(
                {name: Said(value) for name, value in small.items()},
                "As small as benchmarks/sweeps/bccd_faster_rcnn.yaml.",
            )
        tree["anchor_scale"] = _anchor_scale(8.0, REGION_STRIDES[0], size)
    else:
        head: Tree = dict(narrow)
        if detector.value == "retinanet":
            head["ratios"] = _ratios(statistics)
            tree["anchor_scale"] = _anchor_scale(4.0, PYRAMID[0], size)
        if head:
            tree["head"] = Said(head)
        tree["strides"] = _strides(size)
    most = statistics.per_image.most
    if most > 100:
        kept = min(1000, 100 * math.ceil(most / 100))
        why = f"An image has up to {most:g} boxes, more than the 100 detections that are kept by default."
        tree["postprocess"] = Said({"max_detections": Said(kept, why)})
    return tree


def trained_teacher(student_tree: Tree, goal: Goal, init: Path | None) -> Tree:
    """The same detector on the goal's larger backbone."""
    return {**student_tree, "backbone": backbone(goal.teacher, str(student_tree["detector"].value), goal, init)}


def backbone(entry: Mapping[str, Any], detector: str, goal: Goal, init: Path | None) -> Said:
    tree: Tree = {name: Said(value) for name, value in entry.items() if value is not None}
    if init is not None:
        tree["init"] = Said({"file": Said(str(init))}, "The file that was named.")
    elif goal.random:
        tree["init"] = Said("random", "There are no ImageNet weights for so narrow a backbone.")
    else:
        tree["init"] = IMAGENET
    known = goal.source if detector == RECIPES else f"whose detector is {RECIPES}; with {detector} it was not measured"
    return Said(tree, f"From the recipe {goal.recipe}, {known}.")


def _strides(size: Size) -> Said:
    """As many levels as the largest objects need: anchors are 8 strides wide, and twice that is still near."""
    count = next((count for count in (3, 4) if size.large <= 16 * PYRAMID[count - 1]), 5)
    why = (
        f"The largest objects have {size.large:.3g} pixels when trained. The last level's anchors have "
        f"{8 * PYRAMID[count - 1]}; another level is added where objects are more than twice as large."
    )
    return Said(PYRAMID[:count], why)


def _anchor_scale(default: float, stride: int, size: Size) -> Said:
    least = default * stride
    if size.small >= HALF * least:
        return Said(
            default, f"The default: the smallest objects, {size.small:.3g} pixels, overlap anchors of {least:g}."
        )
    scale = max(1.0, round(size.small / stride, 1))
    why = (
        f"The smallest objects have {size.small:.3g} pixels and would cover less than half of an anchor of {least:g}: "
        f"the smallest anchors have {scale * stride:.3g}."
    )
    return Said(scale, why)


def _ratios(statistics: Statistics) -> Said:
    low, high = statistics.aspect.low, statistics.aspect.high
    told = f"Height over width is {low:.2g} to {high:.2g} in 90 of 100 boxes."
    if low >= 1 / ALWAYS_HELD and high <= ALWAYS_HELD:
        return Said([0.5, 1.0, 2.0], f"{told} The default covers {1 / ALWAYS_HELD:g} to {ALWAYS_HELD:g}.")
    first = max(-MOST_OCTAVES, min(-1, math.floor(math.log2(low)) + 1))
    last = min(MOST_OCTAVES, max(1, math.ceil(math.log2(high)) - 1))
    return Said([2.0**power for power in range(first, last + 1)], f"{told} Each of these covers half to twice itself.")
