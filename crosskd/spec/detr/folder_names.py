"""Names of a DETR's tensors in a folder of transformers, and ours. Imports no torch.

The library saves by the names that published files have, and reads those that its modules have now as well: so do we.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence

from crosskd.spec.detr.folder_windowed import windowed_from_library, windowed_to_library
from crosskd.spec.model import ModelConfig
from crosskd.spec.registry import BACKBONES

# Published -> as the library's modules are called now, and so the head's tensors here.
_RENAMED: Sequence[tuple[str, str]] = (
    (r"backbone\.conv_encoder\.", "backbone."),
    (r"self_attn\.out_proj\.", "self_attn.o_proj."),
    (r"encoder\.encoder\.(\d+)\.layers\.", r"encoder.aifi.\1.layers."),
)
_FEEDFORWARD = r"layers\.(\d+)\.fc([12])\."
# The library's ResNet; ours has torchvision's names. Of more digits, which a file may have, Python makes no number.
_RESNET: Sequence[tuple[str, str]] = (
    (r"conv1\.", "embedder.embedder.convolution."),
    (r"bn1\.", "embedder.embedder.normalization."),
    (r"layer(\d)\.(\d{1,3})\.conv(\d)\.", "encoder.stages.{0}.layers.{1}.layer.{2}.convolution."),
    (r"layer(\d)\.(\d{1,3})\.bn(\d)\.", "encoder.stages.{0}.layers.{1}.layer.{2}.normalization."),
    (r"layer(\d)\.(\d{1,3})\.downsample\.0\.", "encoder.stages.{0}.layers.{1}.shortcut.convolution."),
    (r"layer(\d)\.(\d{1,3})\.downsample\.1\.", "encoder.stages.{0}.layers.{1}.shortcut.normalization."),
)
# The same, the other way.
_OF_RESNET: Sequence[tuple[str, str]] = (
    (r"embedder\.embedder\.convolution\.", "conv1."),
    (r"embedder\.embedder\.normalization\.", "bn1."),
    (r"encoder\.stages\.(\d{1,3})\.layers\.(\d{1,3})\.layer\.(\d{1,3})\.convolution\.", "layer{0}.{1}.conv{2}."),
    (r"encoder\.stages\.(\d{1,3})\.layers\.(\d{1,3})\.layer\.(\d{1,3})\.normalization\.", "layer{0}.{1}.bn{2}."),
    (r"encoder\.stages\.(\d{1,3})\.layers\.(\d{1,3})\.shortcut\.convolution\.", "layer{0}.{1}.downsample.0."),
    (r"encoder\.stages\.(\d{1,3})\.layers\.(\d{1,3})\.shortcut\.normalization\.", "layer{0}.{1}.downsample.1."),
)
COUNTER = "num_batches_tracked"


def from_library(name: str, model: ModelConfig) -> str:
    """The name in a file as ours."""
    for old, new in _RENAMED:
        name = re.sub(old, new, name)
    if model.backbone.vit is not None:
        return windowed_from_library(name)
    name = re.sub(_FEEDFORWARD, lambda match: _inside(model.detector, match[1], int(match[2])), name)
    if match := re.match(r"model\.backbone\.model\.(?:_backbone\.)?(.+)", name):
        plain = BACKBONES[model.backbone.name].family == "resnet"
        return f"backbone.{_renumbered(match[1], _OF_RESNET, 1) if plain else match[1]}"
    if match := re.match(r"model\.(?:encoder_)?input_proj\.(.+)", name):
        return f"neck.{match[1]}"
    return f"head.{name}"


def _inside(detector: str, layer: str, place: int) -> str:
    """The name of the first or the second feed-forward layer."""
    return f"layers.{layer}.mlp." + (f"layers.{place - 1}." if detector == "d_fine" else f"fc{place}.")


def to_library(name: str, model: ModelConfig) -> str | None:
    """Our name in a file; None for what it has no place for: counters of the backbone's norms."""
    if model.backbone.vit is not None:
        return windowed_to_library(name, model.detector)
    part, _, rest = name.partition(".")
    if part == "backbone":
        if name.endswith(COUNTER):
            return None
        of = "model.backbone.conv_encoder.model." if model.detector == "deformable_detr" else "model.backbone.model."
        plain = BACKBONES[model.backbone.name].family == "resnet"
        return of + (_renumbered(rest, _RESNET, -1) if plain else rest)
    if part == "neck":
        return f"model.{'' if model.detector == 'deformable_detr' else 'encoder_'}input_proj.{rest}"
    rest = re.sub(r"self_attn\.o_proj\.", "self_attn.out_proj.", rest)
    rest = re.sub(r"encoder\.aifi\.(\d+)\.layers\.", r"encoder.encoder.\1.layers.", rest)
    rest = re.sub(r"layers\.(\d+)\.mlp\.fc([12])\.", r"layers.\1.fc\2.", rest)
    return re.sub(r"layers\.(\d+)\.mlp\.layers\.([01])\.", lambda m: f"layers.{m[1]}.fc{int(m[2]) + 1}.", rest)


def class_rows(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many classes the tensors of these shapes are made for, by our names; None where nothing says it."""
    layers = [shape for name, shape in shapes.items() if name.endswith("class_embed.0.bias") and len(shape) == 1]
    return layers[0][0] if layers else None


def twins(name: str) -> list[str]:
    """Our names of the tensor that a missing one may be a second name of, the nearest first.

    The predictions of a decoder's layers stand in the model and in its decoder, and may be one for all layers; then
    the library saves them once.
    """
    match = re.fullmatch(r"head\.(model\.decoder\.)?(class_embed|bbox_embed)\.(\d+)\.(.+)", name)
    if match is None:
        return []
    inner, kind, place, rest = match.groups()
    other = "" if inner else "model.decoder."
    here = inner or ""
    return [f"head.{other}{kind}.{place}.{rest}", f"head.{here}{kind}.0.{rest}", f"head.{other}{kind}.0.{rest}"]


def with_twins(found: Mapping[str, object], wanted: Iterable[str]) -> dict[str, str]:
    """Of what is `wanted` and was not `found`: the found name that it is a second name of."""
    return {
        name: twin
        for name in wanted
        if name not in found and (twin := next((other for other in twins(name) if other in found), None)) is not None
    }


def second_names(found: Iterable[str], wanted: Container[str]) -> dict[str, str]:
    """Of what was `found` and a model has by another name alone: that name, which is `wanted`."""
    return {name: told[0] for name in found if name not in wanted and (told := twins(name)) and told[0] in wanted}


def same_tensor(name: str, model: ModelConfig) -> str | None:
    """Our name of the tensor that a model has under `name` as well, so that both must be equal in a file."""
    section = model.detr
    told = twins(name)
    if not told or section is None:
        return None
    if model.detector != "deformable_detr" or (section.box_refine and "bbox_embed" in name):
        return told[0]
    return None if section.box_refine else told[1]


def _renumbered(name: str, table: Sequence[tuple[str, str]], step: int) -> str:
    """A ResNet's stages and layers are counted from 1 in torchvision, and from 0 in transformers."""
    for pattern, other in table:
        if match := re.match(pattern, name):
            stage, block, layer = (*(int(number) for number in match.groups()), 0, 0, 0)[:3]
            return other.format(stage + step, block, layer + step) + name[match.end() :]
    return name
