"""`python -m crosskd.detectors.detr.tensor_table` writes the table of the library's tensors: `spec/detr/tensors.json`.

Each type is built in two sizes, in which no number means two things. What of a name counts, and what of a shape is a
multiple of which size, is read off the first, and must tell the second.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from importlib.metadata import version
from typing import Any

import torch

from crosskd.detectors.detector import build_detector
from crosskd.spec.config import ModelConfig
from crosskd.spec.detr.section import DetrConfig
from crosskd.spec.detr.tensors import REFINED, TABLE, Shapes, _numbered, _product, sizes
from crosskd.spec.detr.types import LIBRARY, TYPES

_BACKBONE = {"name": "resnet_tiny", "width": 24, "init": "random"}
_VIT = {"width": 8, "heads": 2, "maps": [1, 2, 3], "patch": 4, "image_side": 4}
_CLASSES = (89, 71)
# Of counters: no two alike, and no number of anything that the library has fixed.
_TRIALS: tuple[dict[str, Any], ...] = (
    {"width": 352, "heads": 11, "feedforward": 1009, "queries": 997, "points": 13, "levels": 5, "encoder_layers": 6}
    | {"decoder_layers": 9, "depth": 11 / 3, "expansion": 0.5, "bins": 58, "cross_heads": 22, "groups": 5}
    | {"encoder_width": 704, "encoder_feedforward": 1013, "scales": [2, 1, 0.5]},
    {"width": 480, "heads": 5, "feedforward": 509, "queries": 503, "points": 7, "levels": 4, "encoder_layers": 2}
    | {"decoder_layers": 7, "depth": 8 / 3, "expansion": 1.5, "bins": 46, "cross_heads": 24, "groups": 8}
    | {"encoder_width": 800, "encoder_feedforward": 521, "scales": [2, 0.5]},
)
# By the knob that a type must read.
_COUNTERS = {**{name: name for name in ("encoder_layers", "decoder_layers", "groups")}, "depth": "blocks"}
_FACTORS = (
    "width", "feedforward", "queries", "classes", "classes_and_none", "inside", "half", "fused", "edges",
    "encoder_width", "encoder_feedforward", "c3", "c4", "c5",
    "heads*all_points", "cross_heads*all_points", "groups*queries",
    "all_points", "levels", "heads", "width*width",
)  # fmt: skip


def trial(kind: str, number: int, *, refined: bool) -> tuple[ModelConfig, int]:
    knobs: dict[str, Any] = {"box_refine": True} if refined else {}
    knobs |= {name: value for name, value in _TRIALS[number].items() if name in TYPES[kind].knobs}  # type: ignore[index]
    own = TYPES[kind].backbone  # type: ignore[index]
    backbone = _BACKBONE if own is None else {"name": own, "vit": _VIT}
    model = ModelConfig.model_validate({"detector": kind, "backbone": backbone, "detr": knobs})
    return model, _CLASSES[number]


def of_library(model: ModelConfig, num_classes: int) -> Shapes:
    """Names and shapes of a real detector's head."""
    with torch.device("meta"):
        state = build_detector(model, num_classes, pretrained=False).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name.startswith("head.")}


def known_sizes(model: ModelConfig, num_classes: int) -> dict[str, int]:
    assert isinstance(model.detr, DetrConfig)
    return sizes(model.detr, num_classes, model.backbone.channels[-3:])


def rows(kind: str, *, refined: bool) -> dict[str, list[str]]:
    """The table of one model type. Raises `ValueError` for what two trials do not tell."""
    trials = [trial(kind, number, refined=refined) for number in (0, 1)]
    built = [(of_library(model, count), known_sizes(model, count)) for model, count in trials]
    (first, known), (second, others) = built
    found: dict[str, list[str]] = {}
    for name, template in _templates(kind, first, known).items():
        if template in found:
            continue
        shape, other = first[name], second[_numbered(template, dict.fromkeys(others, 1))[0]]
        found[template] = [_factor(a, b, known, others, name) for a, b in zip(shape, other, strict=True)]
    told = {
        name: tuple(_product(dimension, others) for dimension in dimensions)
        for template, dimensions in found.items()
        for name in _numbered(template, others)
    }
    if told != second:
        differing = sorted(told.items() ^ second.items())[:4]
        raise ValueError(f"{kind}: the table does not tell {differing}")
    return found


def _templates(kind: str, shapes: Shapes, known: dict[str, int]) -> dict[str, str]:
    """Name -> the name with its counters: a number whose siblings are as many as a counter says."""
    siblings: dict[str, set[str]] = defaultdict(set)
    for name in shapes:
        parts = name.split(".")
        for place, part in enumerate(parts):
            if part.isdigit():
                siblings[".".join(parts[:place])].add(part)
    knobs = TYPES[kind].knobs  # type: ignore[index]
    counters = {known[counter]: counter for knob, counter in _COUNTERS.items() if knob in knobs}
    templates = {}
    for name in shapes:
        parts = name.split(".")
        for place, part in enumerate(name.split(".")):
            count = len(siblings[".".join(name.split(".")[:place])]) if part.isdigit() else 0
            if count in counters:
                parts[place] = f"{{{counters[count]}}}"
        templates[name] = ".".join(parts)
    return templates


def _factor(here: int, there: int, known: dict[str, int], others: dict[str, int], name: str) -> str:
    if here == there:
        return str(here)
    for times, factor in itertools.product(range(1, 9), _FACTORS):
        dimension = factor if times == 1 else f"{times}*{factor}"
        if (_product(dimension, known), _product(dimension, others)) == (here, there):
            return dimension
    raise ValueError(f"{name} has {here} and {there} where nothing has")


def main() -> None:
    tables: dict[str, dict[str, list[str]]] = {kind: rows(kind, refined=False) for kind in TYPES}
    for kind, entry in TYPES.items():
        if "box_refine" in entry.knobs:
            tables[kind + REFINED] = rows(kind, refined=True)
    short = {kind: {name: " ".join(shape) for name, shape in table.items()} for kind, table in tables.items()}
    told = {LIBRARY: version(LIBRARY), "types": short}
    TABLE.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
