"""Merge patches (RFC 7386) of a specification, and the grid's knobs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from crosskd.spec import registry
from crosskd.spec.config import TrainConfig

Path = Sequence[str]


def merge(target: Any, patch: Any, path: tuple[str, ...] = ()) -> Any:
    """`target` with `patch` put in; neither is changed.

    As RFC 7386 has it, but for null. There it takes a key away; here it does so for a knob that knows no null, which
    then has its default. Others get null: of most that is the default too, of some a value of its own
    (`optimizer.base_batch`). An unknown key keeps its null, so that whoever validates the outcome finds the key.
    """
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        here = (*path, key)
        if value is None and _known(here) and not _takes_null(here):
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value, here)
    return merged


def put(spec: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """`spec` with `value` at `path`; `spec` itself stays as it is."""
    first, *rest = path
    inner = spec.get(first)
    deeper = put(inner if isinstance(inner, dict) else {}, rest, value) if rest else copy.deepcopy(value)
    return {**spec, first: deeper}


def has_teacher(spec: dict[str, Any], patch: dict[str, Any], *, given: bool) -> bool:
    """Whether an arm distils: its merged `spec` names a teacher, or one is `given`, and distilling is not put off."""
    off = ("distill" in spec and spec["distill"] is None) or ("teacher" in patch and patch["teacher"] is None)
    return not off and (given or spec.get("teacher") is not None)


def applies(path: Path, spec: dict[str, Any]) -> bool:
    """Whether an arm with this specification has the knob: those of a teacher and of a term only where that is on."""
    if path[0] not in ("distill", "teacher", "init_student"):
        return True
    if spec.get("teacher") is None:
        return False
    if path[0] != "distill" or len(path) == 1 or path[1] not in registry.TERMS:
        return True
    section = spec.get("distill")
    terms = [name for name in registry.TERMS if isinstance(section, dict) and section.get(name) is not None]
    return path[1] in (terms or ["crosskd"])


def holds(value: Any, path: Path) -> bool:
    """Whether `value` says something at `path`: it has a value there, or above it one that is no section."""
    for key in path:
        if not isinstance(value, dict):
            return True
        if key not in value:
            return False
        value = value[key]
    return True


def _known(path: Path) -> bool:
    return bool(_annotations(path))


def _takes_null(path: Path) -> bool:
    return any(type(None) in get_args(annotation) for annotation in _annotations(path))


def _annotations(path: Path) -> list[Any]:
    """Of the knob at `path` in a `TrainConfig`; several where a union leaves open which; none: there is no such."""
    models: list[type[BaseModel]] = [TrainConfig]
    found: list[Any] = []
    for key in path:
        found = [model.model_fields[key].annotation for model in models if key in model.model_fields]
        models = [model for annotation in found for model in _models(annotation)]
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
