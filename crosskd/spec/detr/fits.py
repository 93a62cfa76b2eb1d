"""What of a detector must go with its `detr` section: its backbone, and the strides of its maps. Imports no torch."""

from __future__ import annotations

from crosskd.spec.backbones.vit import VITS, VitConfig
from crosskd.spec.detr.section import DETR_STRIDES, MIN_LEVELS, DetrConfig, map_strides
from crosskd.spec.detr.types import TYPES
from crosskd.spec.section import refused


def refuse_other_backbone(detector: str, backbone: str) -> None:
    """A vision transformer with windows goes with its own detector alone, and this with no other backbone."""
    own = TYPES[detector].backbone if detector in TYPES else None
    if own is not None and backbone != own:
        raise refused(f"{detector} has a backbone of its own; use {own}", "backbone", "name")
    if own is None and backbone in VITS:
        message = f"{backbone} gives maps of one stride, which {VITS[backbone].detector} alone reads; use another one"
        raise refused(message, "backbone", "name")


def refuse_other_strides(detector: str, detr: DetrConfig, vit: VitConfig | None, strides: list[int]) -> None:
    """Other knobs tell them."""
    if vit is not None:
        if not (told := map_strides(vit.patch, detr.scales)):
            message = f"a patch of {vit.patch} pixels has no half: leave 2 out, or use an even `backbone.vit.patch`"
            raise refused(message, "detr", "scales")
        says = "`detr.scales` and `backbone.vit.patch` say which maps"
    else:
        if detr.levels < MIN_LEVELS:
            raise refused(f"{detector} reads {MIN_LEVELS} levels at least", "detr", "levels")
        told, says = DETR_STRIDES[: detr.levels], "`detr.levels` says how many maps"
    if strides != told:
        raise refused(f"{says} {detector} has; leave strides out", "strides")
