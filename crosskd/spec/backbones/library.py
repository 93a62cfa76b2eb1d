"""Two backbones of transformers by their sizes: RT-DETR's ResNet and D-FINE's HGNetV2. Imports no torch.

The names stand for what is published; another width scales all channels alike. Their configuration in the library, and
the names and shapes of their tensors, follow from the sizes: a test builds the library's and compares.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Shapes = dict[str, tuple[int, ...]]

STEM_STRIDES = (2, 1, 1, 2, 1)
BOTTLENECK = 4  # channels behind a bottleneck to each inside
RT_DETR_RESNET: Literal["rt_detr_resnet"] = "rt_detr_resnet"  # as the library calls it
HGNET: Literal["hgnet_v2"] = "hgnet_v2"
_LIGHT = (False, False, True, True)  # stages whose layers are a 1 x 1 convolution and one channel by channel
_KERNELS = (3, 3, 5, 5)


@dataclass(frozen=True)
class HGNetSizes:
    """HGNetV2 (PaddleClas; D-FINE, arXiv 2410.13842) at its published width, which is the last number of `stem`."""

    stem: tuple[int, int]
    inside: tuple[int, ...]  # of each stage: channels of the layers
    out: tuple[int, ...]  # of each stage: channels behind it
    blocks: tuple[int, ...]
    layers: int  # of each block
    affine: bool  # a learnt scale and shift behind each activation


HGNETS: Mapping[str, HGNetSizes] = {
    "hgnet_v2_b0": HGNetSizes((16, 16), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3, True),
    "hgnet_v2_b1": HGNetSizes((24, 32), (32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1), 3, True),
    "hgnet_v2_b2": HGNetSizes((24, 32), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4, True),
    "hgnet_v2_b3": HGNetSizes((24, 32), (32, 64, 128, 256), (128, 512, 1024, 2048), (1, 1, 3, 1), 5, True),
    "hgnet_v2_b4": HGNetSizes((32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6, False),
    "hgnet_v2_b5": HGNetSizes((32, 64), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6, False),
    "hgnet_v2_b6": HGNetSizes((48, 96), (96, 192, 384, 768), (192, 512, 1024, 2048), (2, 3, 6, 3), 6, False),
}


def divisor(sizes: HGNetSizes) -> int:
    """What a width must be a multiple of for all channels to be whole numbers, those that are halved even ones."""
    width = sizes.stem[1]
    halved = (sizes.stem[0], *sizes.out)
    return math.lcm(*(width // math.gcd(width, count // 2) for count in halved), *_parts(sizes.inside, width))


def _parts(counts: Sequence[int], width: int) -> list[int]:
    return [width // math.gcd(width, count) for count in counts]


def hgnet_settings(name: str, width: int) -> dict[str, Any]:
    """The library's configuration."""
    sizes = HGNETS[name]

    def at(counts: Sequence[int]) -> list[int]:
        return [count * width // sizes.stem[1] for count in counts]

    out = at(sizes.out)
    return {
        "model_type": HGNET,
        "stem_channels": [3, *at(sizes.stem)],
        "stem_strides": list(STEM_STRIDES),
        "stage_in_channels": [width, *out[:-1]],
        "stage_mid_channels": at(sizes.inside),
        "stage_out_channels": out,
        "stage_num_blocks": list(sizes.blocks),
        "stage_downsample": [False, True, True, True],
        "stage_downsample_strides": [2] * len(out),
        "stage_light_block": list(_LIGHT),
        "stage_kernel_size": list(_KERNELS),
        "stage_numb_of_layers": [sizes.layers] * len(out),
        "use_learnable_affine_block": sizes.affine,
        "hidden_sizes": out,
        "hidden_act": "relu",
        "num_channels": 3,
    }


def resnet_settings(model_type: str, block: str, layers: Sequence[int], width: int) -> dict[str, Any]:
    """The library's configuration of a ResNet: RT-DETR's, or the plain one (`resnet`)."""
    first = width * (BOTTLENECK if block == "bottleneck" else 1)
    return {
        "model_type": model_type,
        "embedding_size": width,
        "hidden_sizes": [first * 2**stage for stage in range(len(layers))],
        "depths": list(layers),
        "layer_type": block,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "num_channels": 3,
    }


# --- names and shapes ------------------------------------------------------------------------------------------------


def resnet_shapes(block: str, layers: Sequence[int], width: int) -> Shapes:
    """Of RT-DETR's ResNet: a stem of three convolutions, and a way past each stage's first block."""
    shapes: Shapes = {}
    for i, (a, b) in enumerate(itertools.pairwise((3, width // 2, width // 2, width))):
        shapes |= _conv_norm(f"embedder.embedder.{i}", a, b, 3)
    before = width
    for stage, count in enumerate(layers):
        inside = width * 2**stage
        out = inside * (BOTTLENECK if block == "bottleneck" else 1)
        for i in range(count):
            name = f"encoder.stages.{stage}.layers.{i}"
            # Where the way past pools first, its convolution is the second of two.
            past = f"{name}.shortcut" + (".1" if (stage or (before == out and block == "bottleneck")) else "")
            shapes |= _conv_norm(past, before, out, 1) if i == 0 else {}
            convs = [(before, inside, 1), (inside, inside, 3), (inside, out, 1)]
            convs = convs if block == "bottleneck" else [(before, out, 3), (out, out, 3)]
            for place, (a, b, kernel) in enumerate(convs):
                shapes |= _conv_norm(f"{name}.layer.{place}", a, b, kernel)
            before = out
    return shapes


def hgnet_shapes(name: str, width: int) -> Shapes:
    sizes, told = HGNETS[name], hgnet_settings(name, width)
    _, inner, out = told["stem_channels"]
    convs = {"stem1": (3, inner, 3), "stem2a": (inner, inner // 2, 2), "stem2b": (inner // 2, inner, 2)}
    convs |= {"stem3": (2 * inner, inner, 3), "stem4": (inner, out, 1)}
    shapes: Shapes = {}
    for part, (a, b, kernel) in convs.items():
        shapes |= _conv_norm(f"embedder.{part}", a, b, kernel, affine=sizes.affine)
    for stage, (before, inside, out) in enumerate(
        zip(told["stage_in_channels"], told["stage_mid_channels"], told["stage_out_channels"], strict=True)
    ):
        place = f"encoder.stages.{stage}"
        shapes |= _conv_norm(f"{place}.downsample", 1, before, 3) if stage else {}
        for block in range(sizes.blocks[stage]):
            shapes |= _hgnet_block(f"{place}.blocks.{block}", before if block == 0 else out, inside, out, stage, sizes)
    return shapes


def _hgnet_block(name: str, before: int, inside: int, out: int, stage: int, sizes: HGNetSizes) -> Shapes:
    shapes, kernel = Shapes(), _KERNELS[stage]
    for i in range(sizes.layers):
        given, layer = before if i == 0 else inside, f"{name}.layers.{i}"
        if _LIGHT[stage]:
            shapes |= _conv_norm(f"{layer}.conv1", given, inside, 1)
            shapes |= _conv_norm(f"{layer}.conv2", 1, inside, kernel, affine=sizes.affine)
        else:
            shapes |= _conv_norm(layer, given, inside, kernel, affine=sizes.affine)
    gathered = before + sizes.layers * inside
    shapes |= _conv_norm(f"{name}.aggregation.0", gathered, out // 2, 1, affine=sizes.affine)
    return shapes | _conv_norm(f"{name}.aggregation.1", out // 2, out, 1, affine=sizes.affine)


def _conv_norm(name: str, in_channels: int, out_channels: int, kernel: int, *, affine: bool = False) -> Shapes:
    shapes: Shapes = {f"{name}.convolution.weight": (out_channels, in_channels, kernel, kernel)}
    for part in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{name}.normalization.{part}"] = (out_channels,)
    shapes[f"{name}.normalization.num_batches_tracked"] = ()
    return shapes | ({f"{name}.lab.scale": (1,), f"{name}.lab.bias": (1,)} if affine else {})
