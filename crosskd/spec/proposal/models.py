"""The detectors: which one, how wide, which levels and anchors; a student for a teacher that is there. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.distill import DistillConfig
from crosskd.spec.model import PYRAMID, ModelConfig
from crosskd.spec.pairing import resolve_pair
from crosskd.spec.proposal.goals import Goal, GoalName
from crosskd.spec.proposal.sizes import Size
from crosskd.spec.proposal.statistics import Statistics
from crosskd.spec.proposal.teacher import Teacher
from crosskd.spec.proposal.text import Said, Tree, plain
from crosskd.spec.regions import STRIDES as REGION_STRIDES
from crosskd.spec.shapes import parameter_count

DetectorChoice = Literal["gfl", "retinanet", "atss", "fcos", "faster_rcnn"]
DETECTORS: tuple[DetectorChoice, ...] = get_args(DetectorChoice)
RECIPES = "gfl"  # the detector of the goals' recipes
ALWAYS_HELD = 4.0  # height over width, or its inverse: an anchor of ratio 2 covers such a box with an IoU of 0.55
HALF = math.sqrt(0.5)  # a square of this share of an anchor's side overlaps it with an IoU of 0.5
MOST_OCTAVES = 6  # ratios from 1/64 to 64

# Students by the family of the teacher's backbone, the largest first: name and width.
_RESNETS = [("resnet50", None), ("resnet18", None), ("resnet18", 32), ("resnet18", 16), ("resnet18", 8)]
_LADDERS: Mapping[str, list[tuple[str, int | None]]] = {
    "cspnext": [*((f"cspnext_{size}", None) for size in ("l", "m", "s", "tiny")), ("cspnext_tiny", 16)],
    "cspdarknet": [(f"cspdarknet_{size}", None) for size in ("l", "m", "s", "tiny", "nano")],
    "rt_detr_resnet": [("rt_detr_resnet50", None), ("rt_detr_resnet18", None), ("rt_detr_resnet18", 32)],
    "hgnet_v2": [(f"hgnet_v2_b{number}", None) for number in (5, 4, 3, 2, 1, 0)],
}
# Of the teacher's parameters, at most: GFL's published pairs have 0.60 (R18 of R50) and 0.63 (R50 of R101), the demo's
# 0.19.
_SHARES: Mapping[GoalName, float] = {"fast": 0.25, "balanced": 0.61, "accurate": 0.7}


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
        why = (
            "torchvision's weights. The worker fetches them once, unless they are in its cache; without a network, "
            "name a file: {file: ...}."
        )
        tree["init"] = Said("imagenet", why)
    known = goal.source if detector == RECIPES else f"whose detector is {RECIPES}; with {detector} it was not measured"
    return Said(tree, f"From the recipe {goal.recipe}, {known}.")


def student_of(teacher: Teacher, name: GoalName, goal: Goal, classes: int, init: Path | None) -> Tree:
    """A student that the teacher can teach by CrossKD: its detector on a smaller backbone. Raises: `ConfigError`."""
    model = teacher.model
    family = registry.BACKBONES[model.backbone.name].family
    if family == "vit":
        raise ConfigError(
            f"no student is proposed for a {model.detector}: its backbone belongs to it, and its sizes are a choice",
            remedy="Write the spec by hand: docs/training.md, LW-DETR and RF-DETR.",
        )
    full = parameter_count(model, len(teacher.classes or range(classes)))
    chosen, share = None, 1.0
    for entry, width in _LADDERS.get(family, _RESNETS):
        candidate = _like(model, {"name": entry, "width": width})
        share = parameter_count(ModelConfig.model_validate(plain(candidate)), classes) / full
        chosen = candidate
        if share <= _SHARES[name]:
            break
    if chosen is None or share >= 1:
        raise ConfigError(
            f"{teacher.text()} is no larger than the smallest student that is proposed",
            remedy="Name a larger teacher, or train one: leave --teacher out.",
        )
    section = chosen["backbone"].value
    published = registry.BACKBONES[section["name"].value]
    why = f"{share:.2f} of the teacher's {full / 1e6:.1f} million parameters; wanted: at most {_SHARES[name]:g}."
    if init is not None:
        section = {**section, "init": Said({"file": Said(str(init))}, "The file that was named.")}
    elif not published.weights or section.get("width") is not None:
        section = {**section, "init": Said("random", "No ImageNet weights are published for it; name a file of some.")}
    else:
        section = {**section, "init": backbone({}, RECIPES, goal, None).value["init"]} if not goal.random else section
    tree = {**chosen, "backbone": Said(section, why)}
    _require_pair(ModelConfig.model_validate(plain(tree)), model)
    return tree


def _like(model: ModelConfig, entry: Mapping[str, Any]) -> Tree:
    """The teacher's neck, head and levels, where they are not the defaults, on another backbone."""
    section: Tree = {name: Said(value) for name, value in entry.items() if value is not None}
    start = {"detector": model.detector, "backbone": plain(section)}
    tree: Tree = {
        "detector": Said(
            model.detector, "The teacher's: CrossKD goes on in its head, so anchors and levels are the same."
        ),
        "backbone": Said(section),
    }
    family = registry.BACKBONES[str(entry["name"])].family
    if registry.OWN_BACKBONES.get(model.detector) == family:
        return tree  # its neck and head are as wide as the backbone makes them
    default = ModelConfig.model_validate(start).model_dump(mode="json")
    full = model.model_dump(mode="json")
    for name in ("neck", "head", "regions", "detr", "strides", "anchor_scale"):
        theirs, ours = full.get(name), default.get(name)
        if not isinstance(theirs, dict):
            if theirs != ours and theirs is not None:
                tree[name] = Said(theirs)
            continue
        knobs = {
            knob: Said(value)
            for knob, value in theirs.items()
            if knob != "p6_from" and (not isinstance(ours, dict) or ours.get(knob) != value)
        }
        if knobs:
            tree[name] = Said(knobs)
    return tree


def _require_pair(model: ModelConfig, teacher: ModelConfig) -> None:
    _, misfits = resolve_pair(DistillConfig(), model, teacher)
    if misfits:
        raise ConfigError(misfits[0].what, where=misfits[0].where, remedy=misfits[0].remedy)


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
