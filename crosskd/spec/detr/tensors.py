"""Names and shapes of a DETR's tensors, its backbone's apart. Imports no torch.

Those of the head come from a table that is made of the library:
`python -m crosskd.detectors.detr.tensor_table` writes the table; a test compares it with the library.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from functools import cache
from pathlib import Path

from crosskd.spec.detr.names import NOISY_CLASSES
from crosskd.spec.detr.projector import projector_shapes
from crosskd.spec.detr.section import DetrConfig
from crosskd.spec.detr.types import TYPES

TABLE = Path(__file__).with_name("tensors.json")
REFINED = "+box_refine"  # ends the key of a type whose decoder has heads of its own
LAYERS_OF_A_BLOCK = 3  # of a layer that fuses maps, at depth 1
_WIDENING = ".conv3."  # where RT-DETR's layers are as wide inside, it is not there
_NARROWING = ".decoder_input_proj."  # where D-FINE's encoder is as wide as its decoder, it is not there
_COUNTER = re.compile(r"\{(\w+)\}")

Shapes = dict[str, tuple[int, ...]]


def sizes(section: DetrConfig, num_classes: int, channels: tuple[int, ...]) -> dict[str, int]:
    """All that a dimension of the table can be a multiple of, and that numbers can run up to, by name."""
    width = section.maps_width
    half = round(section.expansion * width // 2)
    points = section.level_points or [section.points] * section.levels
    return {
        **{name: getattr(section, name) for name in ("width", "heads", "feedforward", "queries", "points", "levels")},
        "encoder_width": width,
        "encoder_feedforward": section.encoder_feedforward or section.feedforward,
        "all_points": sum(points),
        **{name: getattr(section, name) for name in ("encoder_layers", "decoder_layers", "cross_heads", "groups")},
        "blocks": round(LAYERS_OF_A_BLOCK * section.depth),
        "inside": int(width * section.expansion),
        "half": half,  # D-FINE: of one branch of a layer that fuses maps
        "fused": 2 * (width + half),  # of all its branches
        "edges": section.bins + 1,
        "classes": num_classes,
        "classes_and_none": num_classes + 1,
        **{f"c{level}": count for level, count in enumerate(channels, start=3)},
    }


@cache
def table() -> dict[str, dict[str, list[str]]]:
    """Model type -> names, with the places of numbers -> dimensions, as products."""
    told: dict[str, dict[str, str]] = json.loads(TABLE.read_text(encoding="utf-8"))["types"]
    return {key: {name: shape.split() for name, shape in rows.items()} for key, rows in told.items()}


def detr_shapes(kind: str, section: DetrConfig, num_classes: int, channels: tuple[int, ...]) -> Shapes:
    """The names and shapes of `neck` and `head`; `channels` of the backbone's maps, C3 to C5 or the transformer's."""
    known = sizes(section, num_classes, channels)
    plain = known["inside"] == section.maps_width and kind in ("rt_detr", "rt_detr_v2")
    absent = {_WIDENING: plain, _NARROWING: kind == "d_fine" and section.maps_width == section.width}
    absent[NOISY_CLASSES] = not section.denoising
    rows = table()[kind + REFINED if section.box_refine else kind]
    if TYPES[kind].backbone is not None:  # type: ignore[index]
        neck = projector_shapes(section, channels, scaled="scales" in TYPES[kind].knobs)  # type: ignore[index]
    else:
        neck = _neck(section, channels, grouped=not TYPES[kind].fits_maps)  # type: ignore[index]
    return neck | {
        name: tuple(_product(dimension, known) for dimension in dimensions)
        for template, dimensions in rows.items()
        if not any(left_out and part in template for part, left_out in absent.items())
        for name in _numbered(template, known)
    }


def is_alias(kind: str, section: DetrConfig, name: str) -> bool:
    """Whether the tensor is another one by a second name: a head that serves twice counts once."""
    if name.startswith("head.model.decoder."):
        return name.startswith("head.model.decoder.bbox_embed.") and section.box_refine
    if TYPES[kind].backbone is not None:  # type: ignore[index]
        return False
    own = name.startswith(("head.class_embed.", "head.bbox_embed."))
    if "box_refine" in TYPES[kind].knobs:  # type: ignore[index]
        return own and not section.box_refine and name.split(".")[2] != "0"
    return own


def _neck(section: DetrConfig, channels: tuple[int, ...], *, grouped: bool) -> Shapes:
    """A projection for each map; behind them, some that halve the map before. With group norm, or with batch norm."""
    shapes: Shapes = {}
    width = section.maps_width
    for level in range(section.levels if grouped else len(channels)):
        of_backbone = level < len(channels)
        source = channels[min(level, len(channels) - 1)] if level <= len(channels) else width
        kernel = 1 if of_backbone else 3
        shapes[f"neck.{level}.0.weight"] = (width, source, kernel, kernel)
        names = ("weight", "bias") if grouped else ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"neck.{level}.0.bias": (width,)} if grouped else {}
        shapes |= {f"neck.{level}.1.{name}": (width,) for name in names}
        shapes |= {} if grouped else {f"neck.{level}.1.num_batches_tracked": ()}
    return shapes


def _numbered(template: str, known: dict[str, int]) -> list[str]:
    counters = _COUNTER.findall(template)
    names = []
    for numbers in itertools.product(*(range(known[counter]) for counter in counters)):
        left = iter(numbers)
        names.append(_COUNTER.sub(lambda _, left=left: str(next(left)), template))  # type: ignore[misc]
    return names


def _product(dimension: str, known: dict[str, int]) -> int:
    return math.prod(known[factor] if factor in known else int(factor) for factor in dimension.split("*"))
