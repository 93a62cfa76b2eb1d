"""From an order to its variants: each arm at each point of the grid, as an order for a job; seeds come on top."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import product
from typing import Any

from api.services.sweeps import patches
from wire.errors import Fault
from wire.faults import pointer
from wire.sweeps import MAX_CHILDREN, Point, SweepCreate

BASE, TEACHER = "base", "teacher"
POINT_TEXT = 200  # characters of a label


@dataclass(frozen=True)
class Variant:
    """An arm at a point of the grid: the specification of its jobs, but for the seed."""

    arm: str
    point: Point
    spec: dict[str, Any]


def variants(order: SweepCreate, teacher_job: str) -> tuple[list[Variant], list[Fault]]:
    """Every variant, by arm and point; none if there would be too many jobs.

    `teacher_job` is the id of the teacher that is trained first.
    """
    merged = {arm: _merged(order, patch, teacher_job) for arm, patch in order.arms.items()}
    knobs = {
        arm: [path for path in order.grid if patches.applies(path.split("."), spec)] for arm, spec in merged.items()
    }
    unused = _unused(order, knobs)
    count = len(order.seeds) * sum(math.prod(len(order.grid[path]) for path in paths) for paths in knobs.values())
    if count > MAX_CHILDREN:
        detail = f"the sweep would be {count} jobs, and at most {MAX_CHILDREN} are taken"
        remedy = "Take fewer seeds, arms or values of the grid, or post several sweeps."
        return [], [Fault(pointer="/arms", detail=detail, remedy=remedy), *unused]
    found = []
    for arm, spec in merged.items():
        for values in product(*(order.grid[path] for path in knobs[arm])):
            point = dict(zip(knobs[arm], values, strict=True))
            found.append(Variant(arm, point, _at_point(spec, point)))
    return found, [*unused, *_without_learner(order, found, teacher_job)]


def origin(where: str, order: SweepCreate, variant: Variant) -> str:
    """The place in the order that a pointer into a variant's job comes from."""
    path = [part.replace("~1", "/").replace("~0", "~") for part in where.split("/")[1:]]
    if path[:1] != ["spec"]:
        return where
    inner = path[1:]
    for knob in variant.point:
        if inner[: knob.count(".") + 1] == knob.split("."):
            return pointer(("grid", knob))
    if order.teacher is not None and inner[:2] == ["teacher", "weights"] and not patches.holds(order.base, inner[:2]):
        return "/teacher"
    patch = order.arms[variant.arm]
    in_new_section = patches.holds(patch, inner[:1]) and not patches.holds(order.base, inner[:-1])
    mine = patches.holds(patch, inner) or in_new_section
    return pointer(("arms", variant.arm, *inner) if mine else (BASE, *inner))


def point_text(point: Point) -> str:
    """`distill.crosskd.cls_weight=2`, of several with commas; as long as a label may be."""
    return ", ".join(f"{path}={json.dumps(value)}" for path, value in point.items())[:POINT_TEXT]


def _merged(order: SweepCreate, patch: dict[str, Any], teacher_job: str) -> dict[str, Any]:
    spec: dict[str, Any] = patches.merge(order.base, patch)
    if not patches.has_teacher(spec, patch, given=order.teacher is not None):
        return _alone(spec)
    section = spec.get("teacher") or {}
    if order.teacher is not None and isinstance(section, dict) and section.get("weights") is None:
        section = {**section, "weights": {"job": teacher_job, "checkpoint": "best"}}
    return {**spec, "teacher": section}


def _at_point(spec: dict[str, Any], point: Point) -> dict[str, Any]:
    """With the values of the point, whose `distill: null` and `teacher: null` mean what they mean in an arm."""
    for path, value in point.items():
        spec = patches.put(spec, path.split("."), value)
    return spec if patches.has_teacher(spec, point, given=True) else _alone(spec)


def _alone(spec: dict[str, Any]) -> dict[str, Any]:
    """Without the teacher. Terms stay, where there are any: whoever validates it refuses them."""
    return {name: value for name, value in spec.items() if name != "teacher" and (name, value) != ("distill", None)}


def _unused(order: SweepCreate, knobs: dict[str, list[str]]) -> list[Fault]:
    used = {path for paths in knobs.values() for path in paths}
    remedy = "Remove it, or add an arm that distils with this term."
    return [
        Fault(pointer=pointer(("grid", path)), detail="no arm has this knob", remedy=remedy)
        for path in order.grid
        if path not in used
    ]


def _without_learner(order: SweepCreate, found: list[Variant], teacher_job: str) -> list[Fault]:
    """A teacher that would be trained for nobody."""
    if order.teacher is None:
        return []
    for variant in found:
        section = variant.spec.get("teacher")
        weights = section.get("weights") if isinstance(section, dict) else None
        if isinstance(weights, dict) and weights.get("job") == teacher_job:
            return []
    remedy = "Remove `teacher`, or `teacher.weights` of the base, or add an arm that distils, such as `crosskd: {}`."
    return [Fault(pointer="/teacher", detail="no arm would learn from the teacher that is trained", remedy=remedy)]
