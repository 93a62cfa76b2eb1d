"""What the DETRs alone have: the sizes that their configuration in transformers is made of. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from crosskd.spec.backbones.vit import VITS, VitConfig
from crosskd.spec.bounds import AtMost
from crosskd.spec.detr.types import TYPES, ModelType
from crosskd.spec.section import Probability, Section, given, refused

MAX_QUERIES = 1000
MAX_LAYERS = 12
MIN_LEVELS, MAX_LEVELS = 3, 5  # of a pyramid that begins with C3
DETR_STRIDES = [8, 16, 32, 64, 128]
SCALES = (2.0, 1.0, 0.5)


class DetrConfig(Section):
    """A DETR by its sizes. Their defaults are the library's; what has no knob here is as the library has it.

    Deformable DETR (arXiv 2010.04159); RT-DETR (2304.08069) and its second version (2407.17140); D-FINE (2410.13842);
    LW-DETR (2406.03459) and RF-DETR, whose encoder is their backbone.
    """

    width: int = Field(
        default=256, ge=32, le=1024, multiple_of=32, description="Channels of the maps, of the memory and of queries."
    )
    heads: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Of every attention; they divide the width. LW-DETR, RF-DETR: of the queries' among themselves.",
    )
    cross_heads: int = Field(
        default=16, ge=1, le=64, description="LW-DETR, RF-DETR: of the queries' to the memory; they divide the width."
    )
    feedforward: int = Field(
        default=1024,
        ge=8,
        le=8192,
        description="Channels inside the feed-forward layers. Default: 1024; LW-DETR, RF-DETR: 2048.",
    )
    encoder_width: int | None = Field(
        default=None,
        ge=32,
        le=1024,
        multiple_of=32,
        description="RT-DETR, D-FINE: channels of the maps and inside the encoder, as 384 in the largest published "
        "ones; null: as `width`.",
    )
    encoder_feedforward: int | None = Field(
        default=None,
        ge=8,
        le=8192,
        description="RT-DETR, D-FINE: channels inside the encoder's feed-forward layers; null: as `feedforward`.",
    )
    encoder_layers: int = Field(
        default=6,
        ge=1,
        le=MAX_LAYERS,
        description="Default: 6; RT-DETR and D-FINE, whose encoder attends on the coarsest map alone: 1. Not of "
        "LW-DETR and RF-DETR.",
    )
    decoder_layers: int = Field(
        default=6,
        ge=1,
        le=MAX_LAYERS,
        description="Each has a loss of its own. Default: 6; LW-DETR, RF-DETR: 3.",
    )
    queries: int = Field(
        default=300, ge=1, le=MAX_QUERIES, description="Objects that can be found in an image, at most."
    )
    points: int = Field(default=4, ge=1, le=16, description="Of the memory that a head looks at, on each level.")
    level_points: Annotated[list[Annotated[int, Field(ge=1, le=16)]], Field(min_length=3), AtMost(3)] | None = Field(
        default=None,
        description="D-FINE: points on each level by itself, as 3, 6 and 3 in the published ones; null: `points`.",
    )
    levels: int = Field(
        default=4,
        ge=1,
        le=MAX_LEVELS,
        description="Deformable DETR: maps from P3 on that it attends to, 3 to 5. Default: 4. The others have 3; "
        "LW-DETR as many as `scales`, RF-DETR one.",
    )
    scales: Annotated[list[Annotated[float, Field(ge=0.5, le=2)]], Field(min_length=1), AtMost(3)] = Field(
        default=[1.0],
        description="LW-DETR: sizes of its maps, finest first, as multiples of the backbone's: of patches of 16 pixels "
        "2 is a map at stride 8, 1 at 16, 0.5 at 32.",
    )
    box_refine: bool = Field(
        default=False, description="Deformable DETR: each layer of the decoder refines the boxes of the one before."
    )
    denoising: int = Field(
        default=100, ge=0, le=1000, description="RT-DETR, D-FINE: queries that training makes of noisy objects."
    )
    expansion: float = Field(
        default=1.0,
        ge=0.25,
        le=4,
        description="RT-DETR, D-FINE: of channels inside the layers that fuse maps. LW-DETR, RF-DETR: of those of the "
        "projector, by default 0.5.",
    )
    depth: float = Field(default=1.0, ge=1 / 3, le=4, description="D-FINE: of the layers that fuse maps.")
    bins: int = Field(
        default=32, ge=4, le=128, multiple_of=2, description="D-FINE: the last bin of the distribution of a distance."
    )
    reg_scale: float = Field(
        default=4.0, ge=1, le=64, description="D-FINE: how far apart the outer bins of a distance lie; published: 4, 8."
    )
    groups: int = Field(
        default=13,
        ge=1,
        le=32,
        description="LW-DETR, RF-DETR: of queries in training, which do not see each other (Group DETR, 2207.13085); "
        "the first one detects.",
    )
    dropout: Probability = Field(default=0.1, description="Default: 0.1; RT-DETR, D-FINE and LW-DETR: 0.")

    @model_validator(mode="after")
    def _heads(self) -> DetrConfig:
        if self.width % self.heads:
            raise refused(f"width {self.width} is no multiple of heads {self.heads}; use one", "heads")
        if self.width % self.cross_heads:
            raise refused(
                f"width {self.width} is no multiple of cross_heads {self.cross_heads}; use one", "cross_heads"
            )
        if self.scales != [scale for scale in SCALES if scale in self.scales]:
            raise refused("name some of 2, 1 and 0.5, each once, finest first: [2, 1, 0.5]", "scales")
        if self.maps_width % self.heads:
            raise refused(f"encoder_width {self.encoder_width} is no multiple of heads {self.heads}; use one", "heads")
        if self.level_points is not None and "points" in self.model_fields_set and self.points != 4:
            raise refused("level_points and points say the same; leave one out", "level_points")
        return self

    @property
    def maps_width(self) -> int:
        """Channels of the maps that the encoder reads, and of those that it makes of them."""
        return self.encoder_width or self.width


def detr_maps(section: Any, kind: ModelType, backbone: Any) -> dict[str, Mapping[str, Any]]:
    """What terms ask of a pyramid: channels and strides of the maps that the encoder reads, by section of a model.

    `section` is a `DetrConfig`, or what was sent for one and may be anything; so is `backbone`, of its own section.
    """
    sizes = {name: DetrConfig.model_fields[name].default for name in ("width", "levels", "scales")} | dict(
        kind.defaults
    )
    width, levels, scales = (given(section, name) or sizes[name] for name in ("width", "levels", "scales"))
    width = given(section, "encoder_width") or width
    found: dict[str, Mapping[str, Any]] = {}
    if isinstance(width, int):
        found["neck"] = {"channels": width}
    if kind.backbone is not None:
        patch = given(given(backbone, "vit"), "patch") or own_patch(kind.backbone)
        if strides := map_strides(patch, scales):
            found[""] = {"strides": strides}
        if isinstance(scales, list) and 0 < len(scales) <= len(SCALES):
            found["detr"] = {**kind.defaults, "levels": len(scales)}
    elif isinstance(levels, int) and levels >= MIN_LEVELS:
        found[""] = {"strides": DETR_STRIDES[:levels]}
    return found


def own_patch(backbone: str) -> int:
    """Pixels of a patch by default."""
    patch: int = VITS[backbone].defaults.get("patch", VitConfig.model_fields["patch"].default)
    return patch


def map_strides(patch: Any, scales: Any) -> list[int]:
    """Of maps that are `scales` times as large as one of a cell a patch; none where one of them is no whole number."""
    numbers = isinstance(patch, int) and isinstance(scales, list)
    if not numbers or any(not isinstance(scale, int | float) or scale <= 0 for scale in scales):
        return []
    strides = [patch / scale for scale in scales]
    return [int(stride) for stride in strides] if all(stride == int(stride) for stride in strides) else []


def unread_knob(section: DetrConfig, kind: ModelType) -> str | None:
    """A knob that was changed and that this type does not read."""
    for name, field in DetrConfig.model_fields.items():
        default = kind.defaults.get(name, field.default)
        if name == "levels" and kind.backbone is not None:
            default = len(section.scales)
        if name not in kind.knobs and getattr(section, name) != default:
            return name
    return None


def readers(knob: str) -> list[str]:
    """The types that read it."""
    return [name for name, kind in TYPES.items() if knob in kind.knobs]


def library_values(section: DetrConfig, kind: ModelType) -> dict[str, Any]:
    """The values of the library's configuration, by its names, that the section says."""
    values = {theirs: getattr(section, ours) for ours, names in kind.knobs.items() for theirs in names}
    # What is null is as another knob says, which stands before it.
    told = {theirs: value for theirs, value in values.items() if value is not None}
    return {**_as_others(section, kind), **told, **kind.fixed}


def _as_others(section: DetrConfig, kind: ModelType) -> dict[str, Any]:
    followed = {"encoder_width": section.width, "encoder_feedforward": section.feedforward}
    followed["level_points"] = section.points
    return {theirs: value for ours, value in followed.items() for theirs in kind.knobs.get(ours, ())}
