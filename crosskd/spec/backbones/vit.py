"""The backbones that are vision transformers with windows, LW-DETR's and RF-DETR's, by their sizes. Imports no torch.

Names and shapes of their tensors stand here, too; a test holds them against the library's models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, model_validator

from crosskd.spec.bounds import AtMost
from crosskd.spec.section import Section, refused

MAX_BLOCKS = 24
BLOCKS_IN_WINDOWS = (0, 1, 3, 6, 7, 9)  # LW-DETR's, as published

Shapes = dict[str, tuple[int, ...]]


class VitConfig(Section):
    """A vision transformer whose blocks attend inside windows, but for a few that look at the whole image.

    Images are padded to a multiple of `patch` x `windows` pixels. Defaults are those that
    transformers has for LW-DETR (arXiv 2406.03459; in no published size) and, for rf_detr_dinov2, RF-DETR's base.
    """

    width: int = Field(
        default=192, ge=8, le=1024, multiple_of=8, description="Channels of a patch. Default: 192; rf_detr_dinov2: 384."
    )
    heads: int = Field(
        default=12, ge=1, le=64, description="Of each attention; they divide the width. Default: 12; rf_detr_dinov2: 6."
    )
    maps: Annotated[list[Annotated[int, Field(ge=1, le=MAX_BLOCKS)]], Field(min_length=1), AtMost(8)] = Field(
        default=[2, 4, 5, 9],
        description="Behind how many blocks a map is taken, in order; there are as many blocks as the last one says. "
        "Default: [2, 4, 5, 9]; rf_detr_dinov2: [2, 5, 8, 11].",
    )
    windows: int = Field(default=4, ge=1, le=8, description="A side of the image, square numbers of them in all.")
    window_blocks: Annotated[list[Annotated[int, Field(ge=0, lt=MAX_BLOCKS)]], AtMost(MAX_BLOCKS)] | None = Field(
        default=None,
        description="lw_detr_vit: blocks, from 0, that attend inside a window alone. Default: those of [0, 1, 3, 6, 7, "
        "9] that are there. In rf_detr_dinov2 these are all whose number is not in `maps`.",
    )
    patch: int = Field(
        default=16, ge=4, le=64, description="Pixels a side of a patch. Default: 16; rf_detr_dinov2: 14."
    )
    image_side: int = Field(
        default=224,
        ge=4,
        le=2048,
        description="Pixels a side of the square whose patches have a position each; for images of other sizes the "
        "positions are interpolated. Default: 224; rf_detr_dinov2: 518.",
    )
    mlp_ratio: int = Field(default=4, ge=1, le=8, description="Channels inside a block's layers, in widths.")

    @model_validator(mode="after")
    def _sizes(self) -> VitConfig:
        if self.width % self.heads:
            raise refused(f"width {self.width} is no multiple of heads {self.heads}; use one", "heads")
        if self.maps != sorted(set(self.maps)):
            raise refused("name each map once, in ascending order: [2, 4, 5, 9]", "maps")
        if self.window_blocks is not None and not set(self.window_blocks) <= set(range(self.blocks)):
            message = f"there are {self.blocks} blocks, as the last of `maps` says: use numbers from 0 to "
            raise refused(f"{message}{self.blocks - 1}", "window_blocks")
        if self.image_side < self.patch:
            message = f"image_side {self.image_side} is less than a patch of {self.patch} pixels; use a multiple of it"
            raise refused(message, "image_side")
        return self

    @property
    def blocks(self) -> int:
        return self.maps[-1]

    @property
    def blocks_in_windows(self) -> list[int]:
        """Of lw_detr_vit."""
        if self.window_blocks is not None:
            return list(self.window_blocks)
        return [block for block in BLOCKS_IN_WINDOWS if block < self.blocks]

    @property
    def step(self) -> int:
        """Pixels that the sides of an image are a multiple of: whole windows of whole patches."""
        return self.patch * self.windows

    @property
    def positions(self) -> int:
        return (self.image_side // self.patch) ** 2


@dataclass(frozen=True)
class Vit:
    """A backbone of the library: its classes, and its own default knobs where they differ from the section's."""

    module: str
    config: str
    model: str
    detector: str  # the one that it belongs to
    defaults: Mapping[str, Any] = field(default_factory=dict)


VITS: dict[str, Vit] = {
    "lw_detr_vit": Vit(
        "transformers.models.lw_detr.modeling_lw_detr", "LwDetrViTConfig", "LwDetrViTBackbone", "lw_detr"
    ),
    "rf_detr_dinov2": Vit(
        "transformers.models.rf_detr.modeling_rf_detr",
        "RfDetrDinov2Config",
        "RfDetrDinov2Backbone",
        "rf_detr",
        defaults={"width": 384, "heads": 6, "maps": [2, 5, 8, 11], "patch": 14, "image_side": 518},
    ),
}


def library_values(name: str, vit: VitConfig) -> dict[str, Any]:
    """The values of the library's configuration, by its names, that the section says."""
    values = {
        "hidden_size": vit.width,
        "num_hidden_layers": vit.blocks,
        "num_attention_heads": vit.heads,
        "mlp_ratio": vit.mlp_ratio,
        "patch_size": vit.patch,
        "out_indices": list(vit.maps),
    }
    if name == "rf_detr_dinov2":
        # Its mask token belongs to DINOv2's own training: no detector reads it.
        return values | {"image_size": vit.image_side, "num_windows": vit.windows, "use_mask_token": False}
    # Nothing but a check of the library's reads the size of images.
    sides = {"pretrain_image_size": vit.image_side, "image_size": vit.windows**3}
    return values | sides | {"num_windows": vit.windows**2, "window_block_indices": vit.blocks_in_windows}


def vit_shapes(name: str, vit: VitConfig) -> Shapes:
    """The names and shapes of the backbone's tensors."""
    width, patch = vit.width, vit.patch
    positions, projected = {"embeddings.position_embeddings": (1, vit.positions + 1, width)}, (width, 3, patch, patch)
    if name == "lw_detr_vit":
        shapes: Shapes = positions | _layer("embeddings.projection", projected)
        for block in range(vit.blocks):
            place = f"encoder.layer.{block}"
            shapes |= {f"{place}.{gamma}": (width,) for gamma in ("gamma_1", "gamma_2")}
            shapes |= _attention(place, width, free="k_proj") | _mlp(f"{place}.intermediate", width, vit.mlp_ratio)
            shapes |= _norm(f"{place}.layernorm_before", width) | _norm(f"{place}.layernorm_after", width)
        return shapes
    shapes = {"embeddings.cls_token": (1, 1, width), **positions}
    shapes |= _layer("embeddings.patch_embeddings.projection", projected)
    for block in range(vit.blocks):
        place = f"encoder.layer.{block}"
        shapes |= _norm(f"{place}.norm1", width) | _attention(place, width)
        shapes |= {f"{place}.layer_scale1.lambda1": (width,)} | _norm(f"{place}.norm2", width)
        shapes |= _mlp(f"{place}.mlp", width, vit.mlp_ratio) | {f"{place}.layer_scale2.lambda1": (width,)}
    return shapes | _norm("layernorm", width)


def _attention(place: str, width: int, free: str = "") -> Shapes:
    """`free`: the projection that has no bias."""
    shapes: Shapes = {}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        layer = _layer(f"{place}.attention.{name}", (width, width))
        shapes |= {key: shape for key, shape in layer.items() if name != free or key.endswith("weight")}
    return shapes


def _mlp(place: str, width: int, ratio: int) -> Shapes:
    return _layer(f"{place}.fc1", (ratio * width, width)) | _layer(f"{place}.fc2", (width, ratio * width))


def _layer(name: str, weight: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _norm(name: str, width: int) -> Shapes:
    return _layer(name, (width,))
