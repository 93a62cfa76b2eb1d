"""How large a model may be made: its sizes are bounded one by one, and here all together. Imports no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from crosskd.spec.model import ModelConfig
from crosskd.spec.section import refused
from crosskd.spec.weights.shapes import parameter_shapes

MOST_PARAMETERS = 500_000_000  # a timm backbone's own apart; the largest published detectors have half of that
# By the section of a model, what makes it large.
_SIZES: dict[str, tuple[str, ...]] = {
    "backbone": ("width",),
    "neck": ("channels", "blocks"),
    "head": ("channels", "depth", "reg_max", "octaves"),
    "regions": ("channels",),
    "detr": (
        "width", "feedforward", "encoder_width", "encoder_feedforward", "encoder_layers", "decoder_layers",
        "expansion", "depth", "bins",
    ),
}  # fmt: skip
_VIT_SIZES = ("width", "maps", "mlp_ratio")


def refuse_too_large(model: ModelConfig, classes: Sequence[str] | None, *place: str) -> None:
    """Raise `pydantic.ValidationError` where `model`, which stands at `place`, has more than `MOST_PARAMETERS`.

    Without `classes` there is one, so that no more is asked than is known.
    """
    count = len(classes or ["one"])
    parts = dict(_parameters(model.model_dump_json(exclude={"init"}), count))
    if (total := sum(parts.values())) <= MOST_PARAMETERS:
        return
    largest = max(parts, key=lambda part: parts[part])
    section = {"detr": "detr", "two_stage": "regions"}.get(model.family, "head") if largest == "head" else largest
    names, owner = _SIZES[section], getattr(model, section)
    if section == "backbone" and model.backbone.vit is not None:
        names, owner, section = _VIT_SIZES, model.backbone.vit, "backbone.vit"
    sizes = [f"{section}.{name} {value}" for name in names if (value := getattr(owner, name))]
    sizes += [f"neck.channels {model.neck.channels}"] if section in ("head", "regions") else []
    sizes += [f"{count} classes"] if not section.startswith("backbone") and classes else []
    raise refused(
        f"{', '.join(sizes)} make a {model.detector} of {total / 1e6:,.0f} million parameters; "
        f"{MOST_PARAMETERS / 1e6:.0f} million are the most, so lower one of these",
        *(*place, *section.split(".")),
    )


@lru_cache(maxsize=256)  # the points of a sweep share their model
def _parameters(model: str, classes: int) -> tuple[tuple[str, int], ...]:
    """How many parameters the parts of a model, given as JSON, have; a DETR's neck counts to its head."""
    config = ModelConfig.model_validate_json(model)
    parts: Counter[str] = Counter()
    for name, shape in parameter_shapes(config, classes).items():
        part = name.partition(".")[0]
        parts["head" if part == "neck" and config.detr is not None else part] += math.prod(shape)
    return tuple(parts.items())
