"""Where a section that somebody wrote is of another model than a folder of transformers says. Imports no torch.

Tensors would fit all the same: how many heads share a width, or how points are spread over levels, shapes no tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crosskd.spec.backbone import BackboneConfig
from crosskd.spec.config import ModelConfig
from crosskd.spec.detr.folder import CONFIG, PREPROCESSOR
from crosskd.spec.detr.folder_config import Told
from crosskd.spec.detr.section import DetrConfig

# How a model is trained; what it detects does not depend on it.
_OF_TRAINING = {"dropout", "denoising"}
_OF_TRAINED_BACKBONE = {"init", "frozen_stages", "norm_eval", "norm_frozen", "drop_path"}


@dataclass(frozen=True)
class Contradiction:
    place: str  # a JSON pointer below the section
    what: str  # both values
    remedy: str


def contradictions(written: ModelConfig, told: Told, name: str, section: str) -> list[Contradiction]:
    """What `written`, which stands at `section` ("teacher.model"), says otherwise than the JSON of the folder `name`.

    Of pixels only where a file says them: without one they are assumed. Knobs of the training alone are free.
    """
    found = []
    for place, (ours, theirs) in _differing(written, told).items():
        knob, file = place.replace("/", "."), PREPROCESSOR if place.startswith("pixels") else CONFIG
        what = f"`{section}.{knob}` is {ours}, and {file} of {name} says {theirs}"
        remedy = f"Leave `{section}` out: the folder says its model."
        found.append(Contradiction(f"/{place}", what, remedy))
    return found


def _differing(written: ModelConfig, told: Told) -> dict[str, tuple[Any, Any]]:
    """By place: the written value, and the folder's."""
    model = told.model
    if written.detector != model.detector:
        return {"detector": (written.detector, model.detector)}
    assert written.detr is not None
    assert model.detr is not None
    levels = written.detr.level_points is not None or model.detr.level_points is not None
    pairs = {"detr": (_sizes(written.detr, levels), _sizes(model.detr, levels))}
    pairs["backbone"] = (_of_backbone(written.backbone), _of_backbone(model.backbone))
    if told.images_told:
        pairs["pixels"] = (written.pixels.model_dump(mode="json"), model.pixels.model_dump(mode="json"))
    return {
        f"{part}/{knob}": (value, theirs.get(knob))
        for part, (ours, theirs) in pairs.items()
        for knob, value in ours.items()
        if value != theirs.get(knob)
    }


def _of_backbone(section: BackboneConfig) -> dict[str, Any]:
    values = section.model_dump(exclude=_OF_TRAINED_BACKBONE)
    if section.vit is not None:
        values["vit"]["window_blocks"] = section.vit.blocks_in_windows
    return values


def _sizes(section: DetrConfig, levels: bool) -> dict[str, Any]:
    """With what null stands for filled in; `levels`: points are compared level by level."""
    values = section.model_dump(exclude=_OF_TRAINING)
    values["encoder_width"] = section.maps_width
    values["encoder_feedforward"] = section.encoder_feedforward or section.feedforward
    values["level_points"] = section.level_points or [section.points] * section.levels
    del values["points" if levels else "level_points"]
    return values
