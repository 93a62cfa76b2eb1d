"""Names of the tensors in a folder of LW-DETR or RF-DETR, and ours. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from crosskd.spec.model import ModelConfig

# As RF-DETR's own code calls its modules, which the library saves by; then those of the attention in older versions.
_PUBLISHED: Sequence[tuple[str, str]] = (
    (r"^backbone\.0\.encoder\.encoder\.", "model.backbone.backbone."),
    (r"^backbone\.0\.projector\.stages\.0\.0\.", "model.backbone.projector.projector_layer."),
    (r"^backbone\.0\.projector\.stages\.0\.1\.", "model.backbone.projector.layer_norm."),
    (r"(projector_layer\.)m\.", r"\1bottlenecks."),
    (r"(projector_layer\.(?:bottlenecks\.\d+\.)?)cv(\d)\.bn\.", r"\1conv\2.norm."),
    (r"(projector_layer\.(?:bottlenecks\.\d+\.)?)cv(\d)\.conv\.", r"\1conv\2.conv."),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layernorm."),
    (r"^(transformer\.decoder\.layers\.\d+\.)norm1\.", r"\1self_attn_layer_norm."),
    (r"^(transformer\.decoder\.layers\.\d+\.)norm2\.", r"\1cross_attn_layer_norm."),
    (r"^(transformer\.decoder\.layers\.\d+\.)norm3\.", r"\1layer_norm."),
    (r"^(transformer\.decoder\.layers\.\d+\.)linear(\d)\.", r"\1mlp.fc\2."),
    (r"^transformer\.", "model."),
    (r"^refpoint_embed\.", "model.reference_point_embed."),
    (r"^query_feat\.", "model.query_feat."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.(?:dense\.)?", ".attention.o_proj."),
)
_PLACES = (("model.backbone.backbone.", "backbone.net."), ("model.backbone.projector.", "neck."))
# The library saves LW-DETR's by these.
_OF_LIGHT = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value", "o_proj": "output"}
_TOGETHER = re.compile(r"transformer\.decoder\.layers\.\d{1,3}\.self_attn\.in_proj_(weight|bias)")
_BLOCK = re.compile(r"backbone\.net\.encoder\.layer\.(\d{1,4})\..+")


def windowed_from_library(name: str) -> str:
    """The name of a tensor in a file as ours."""
    for old, new in _PUBLISHED:
        name = re.sub(old, new, name)
    for theirs, ours in _PLACES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return f"head.{name}"


def windowed_to_library(name: str, detector: str) -> str:
    """Our name in a file: as published ones have it."""
    for theirs, ours in _PLACES:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            if detector == "lw_detr":
                return re.sub(r"\.attention\.([qkvo]_proj)\.", lambda m: f".attention.{_OF_LIGHT[m[1]]}.", name)
            return name
    return name.removeprefix("head.")


def parts(name: str, rows: int) -> list[str]:
    """Of a tensor of `rows` rows that is three in our models, one behind the other, their names in a file."""
    match = _TOGETHER.fullmatch(name)
    if match is None or rows % 3:
        return []
    before = name.removesuffix(f"in_proj_{match[1]}")
    return [f"{before}{part}_proj.{match[1]}" for part in "qkv"]


def left_out(count: int) -> list[str]:
    """What to say of so many tensors that are not read."""
    what = "1 tensor of its backbone is" if count == 1 else f"{count} tensors of its backbone are"
    return [f"{what} left out, on which no detection depends"] if count else []


def is_unread(name: str, model: ModelConfig) -> bool:
    """Whether no map depends on the tensor, by our name: blocks behind the last map, and what DINOv2 trained with."""
    vit = model.backbone.vit
    if vit is None:
        return False
    block = _BLOCK.fullmatch(name)
    return name == "backbone.net.embeddings.mask_token" or (block is not None and int(block[1]) >= vit.blocks)
