"""A student for a teacher that is there: its detector on a smaller backbone. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.distill.pairing import require_pair
from crosskd.spec.distill.section import DistillConfig
from crosskd.spec.model import ModelConfig
from crosskd.spec.proposal.goals import GoalName
from crosskd.spec.proposal.models import IMAGENET
from crosskd.spec.proposal.teacher import Teacher
from crosskd.spec.proposal.text import Said, Tree, plain
from crosskd.spec.weights.shapes import parameter_count

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


def student_of(teacher: Teacher, goal: GoalName, classes: int, init: Path | None) -> Tree:
    """A student that the teacher can teach by CrossKD: its detector on a smaller backbone. Raises: `ConfigError`."""
    model = teacher.model
    family = registry.BACKBONES[model.backbone.name].family
    if family == "vit":
        raise ConfigError(
            f"no student is proposed for a {model.detector}: its backbone belongs to it, and its sizes are a choice",
            remedy="Write the spec by hand: docs/training.md, LW-DETR and RF-DETR.",
        )
    chosen, share = _largest(teacher, goal, classes, _LADDERS.get(family, _RESNETS))
    section = chosen["backbone"].value
    published = registry.BACKBONES[section["name"].value]
    wanted, full = _SHARES[goal], teacher.parameters / 1e6
    why = f"{share:.2f} of the teacher's {full:.1f} million parameters; wanted: at most {wanted:g}."
    if init is not None:
        section = {**section, "init": Said({"file": Said(str(init))}, "The file that was named.")}
    elif not published.weights or section.get("width") is not None:
        section = {**section, "init": Said("random", "No ImageNet weights are published for it; name a file of some.")}
    else:
        section = {**section, "init": IMAGENET}
    tree = {**chosen, "backbone": Said(section, why)}
    require_pair(DistillConfig(), ModelConfig.model_validate(plain(tree)), model)
    return tree


def _largest(
    teacher: Teacher, goal: GoalName, classes: int, ladder: list[tuple[str, int | None]]
) -> tuple[Tree, float]:
    """The first student that is small enough, else the last one; and its share of the teacher's parameters."""
    share, candidate = 1.0, {}
    for name, width in ladder:
        try:
            candidate = _like(teacher.model, {"name": name, "width": width})
            share = parameter_count(ModelConfig.model_validate(plain(candidate)), classes) / teacher.parameters
        except ValidationError as error:  # such as levels that the teacher's backbone alone has
            why = error.errors()[0]["msg"].removeprefix("Value error, ")
            remedy = "Write the spec by hand: docs/training.md."
            raise ConfigError(f"no student is proposed for {teacher.text()}: {why}", remedy=remedy) from None
        if share <= _SHARES[goal]:
            break
    if share >= 1:
        raise ConfigError(
            f"{teacher.text()} is no larger than the smallest student that is proposed",
            remedy="Name a larger teacher, or train one: leave --teacher out.",
        )
    return candidate, share


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
