"""The backbones that a configuration may name, and the facts about them, told without torch: a part of the registry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crosskd.spec.backbones.library import HGNETS, RT_DETR_RESNET, divisor

Family = Literal[
    "resnet", "mobilenet", "mobilenet_v3", "swin", "cspnext", "cspdarknet", "rt_detr_resnet", "hgnet_v2", "vit",
    "timm",
]  # fmt: skip


@dataclass(frozen=True)
class Backbone:
    """A backbone and the facts that shape everything behind it, all told without torch.

    `out_channels` are the channels of C2..C5, at strides 4, 8, 16, 32, at the default width; of a timm model, C3..C5.
    A vision transformer has none here: its own section tells them.
    """

    target: str
    family: Family
    out_channels: tuple[int, ...]
    width: int | None = 64  # channels of the stem; None: not to be chosen
    divisor: int = 1  # what a chosen width must be a multiple of
    rounded_to: int = 1  # channels are rounded to a multiple of this
    block: Literal["basic", "bottleneck"] = "basic"
    layers: tuple[int, ...] = ()  # blocks per stage
    weights: bool = True  # ImageNet weights are published: torchvision's, at the default width; or timm's
    stages: int = 4  # behind the stem
    frozen_stages: int = -1  # by default, where pretrained
    norm_eval: bool = True  # by default, where pretrained and there is batch norm
    batch_norm: bool = True  # whether it may have batch norm
    depthwise: bool = False  # CSPDarknet: 3 x 3 convolutions channel by channel, then 1 x 1 ones
    drop_path: float = 0.0  # by default; 0: it has none
    coarsest: tuple[int, ...] = ()  # channels of the two maps at stride 32 that it can give instead of C2..C5
    levels: tuple[int, ...] = ()  # timm: which of its maps these are
    parameters: int = 0  # timm: how many; others are counted by `crosskd.spec.weights.shapes`
    unused_parameters: tuple[str, ...] = ()  # timm: parameters that no map depends on
    export_fault: str | None = ""  # why it has no form in ONNX; empty: it has one; None: not tried
    pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # mean, deviation, 0..255; None: ImageNet's

    def channels(self, width: int | None = None) -> tuple[int, ...]:
        """Of the maps at `width`, C5 last."""
        if self.width is None or width is None:
            return self.out_channels
        return tuple(self.scaled(count, width) for count in self.out_channels)

    def scaled(self, count: int, width: int) -> int:
        """Channels that are `count` at the default width; as MobileNetV2 rounds them (arXiv 1801.04381)."""
        if self.width is None:
            return count
        exact, step = count * width / self.width, self.rounded_to
        rounded = max(step, int(exact + step / 2) // step * step)
        return rounded + step if rounded < 0.9 * exact else rounded


TIMM = "timm/"  # begins the name of a backbone of the timm package
TIMM_MAPS = 3  # C3..C5: what nothing reads is not computed, and the norm that some models have on C2 stays away
TIMM_TABLE = Path(__file__).parents[2] / "backbones" / "timm_models.json"
TIMM_EXPORTS = TIMM_TABLE.with_name("timm_exports.json")


def _resnet(block: Literal["basic", "bottleneck"], layers: tuple[int, ...], width: int = 64) -> Backbone:
    first = width * (4 if block == "bottleneck" else 1)
    return Backbone(
        "crosskd.backbones.resnet:ResNet",
        "resnet",
        out_channels=(first, 2 * first, 4 * first, 8 * first),
        width=width,
        block=block,
        layers=layers,
        weights=width == 64,
        frozen_stages=1,
    )


def _cspnext(deepen: float, widen: float) -> Backbone:
    """By MMDetection's factors: of the blocks of each stage, and of the channels."""
    width = round(64 * widen)
    return Backbone(
        "crosskd.backbones.csp_next:CSPNeXt",
        "cspnext",
        out_channels=(2 * width, 4 * width, 8 * width, 16 * width),
        width=width,
        divisor=2,
        layers=tuple(max(1, round(count * deepen)) for count in (3, 6, 6, 3)),
        weights=False,
        norm_eval=False,
    )


def _cspdarknet(deepen: float, widen: float, *, depthwise: bool = False) -> Backbone:
    """By the factors of YOLOX (arXiv 2107.08430): of the blocks of each stage, and of the channels."""
    width, blocks = round(64 * widen), max(1, round(3 * deepen))
    return Backbone(
        "crosskd.backbones.csp_darknet:CSPDarknet",
        "cspdarknet",
        out_channels=(2 * width, 4 * width, 8 * width, 16 * width),
        width=width,
        divisor=2,
        layers=(blocks, 3 * blocks, 3 * blocks, blocks),
        weights=False,
        norm_eval=False,
        depthwise=depthwise,
    )


_UNIT_PIXELS = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))  # what transformers' real-time detectors are published with


def _resnet_vd(block: Literal["basic", "bottleneck"], layers: tuple[int, ...], width: int = 64) -> Backbone:
    """As RT-DETR has it (arXiv 2304.08069; 1812.01187): a stem of three convolutions, pooled ways past the blocks."""
    first = width * (4 if block == "bottleneck" else 1)
    return Backbone(
        "crosskd.backbones.library:LibraryBackbone",
        RT_DETR_RESNET,
        out_channels=(first, 2 * first, 4 * first, 8 * first),
        width=width,
        divisor=2,
        block=block,
        layers=layers,
        weights=False,
        pixels=_UNIT_PIXELS,
    )


def _hgnet(name: str) -> Backbone:
    sizes = HGNETS[name]
    return Backbone(
        "crosskd.backbones.library:LibraryBackbone",
        "hgnet_v2",
        out_channels=sizes.out,
        width=sizes.stem[1],
        divisor=divisor(sizes),
        layers=sizes.blocks,
        weights=False,
        pixels=_UNIT_PIXELS,
    )


_VIT = Backbone(
    "crosskd.backbones.vit:WindowedViT",
    "vit",
    out_channels=(),
    width=None,
    weights=False,
    batch_norm=False,
    export_fault="",
)


def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TIMM_TABLE.read_text())
    return table


def timm_exports() -> dict[str, str]:
    """A timm model -> why it does not export, empty where it does: `python -m crosskd.onnx.timm_exports` writes it."""
    known: dict[str, str] = json.loads(TIMM_EXPORTS.read_text())["models"]
    return known


def _timm() -> dict[str, Backbone]:
    """Those of the shipped table, which `python -m crosskd.backbones.timm_table` writes."""
    exports = timm_exports()
    return {
        TIMM + name: Backbone(
            "crosskd.backbones.timm_features:TimmFeatures",
            "timm",
            out_channels=tuple(row["channels"][-TIMM_MAPS:]),
            width=None,
            weights=row["weights"],
            levels=tuple(row["levels"][-TIMM_MAPS:]),
            parameters=row["parameters"],
            unused_parameters=tuple(row.get("idle", ())),
            export_fault=exports.get(name),
            pixels=(_bytes(row["mean"]), _bytes(row["std"])) if "mean" in row else None,
        )
        for name, row in _table()["models"].items()
    }


def _bytes(values: Sequence[float]) -> tuple[float, ...]:
    """From 0..1 to 0..255, without the digits that a product adds."""
    return tuple(round(value * 255, 6) for value in values)


def timm_version() -> str:
    """The version of timm that the shipped table was made with."""
    return str(_table()["timm"])


BACKBONES: dict[str, Backbone] = {
    "resnet18": _resnet("basic", (2, 2, 2, 2)),
    "resnet34": _resnet("basic", (3, 4, 6, 3)),
    "resnet50": _resnet("bottleneck", (3, 4, 6, 3)),
    "resnet101": _resnet("bottleneck", (3, 4, 23, 3)),
    "resnet_tiny": _resnet("basic", (1, 1, 1, 1), width=16),
    "mobilenet_v2": Backbone(
        "crosskd.backbones.mobilenet:MobileNetV2",
        "mobilenet",
        out_channels=(24, 32, 96, 320),
        width=32,
        divisor=8,
        rounded_to=8,
        frozen_stages=1,
    ),
    "mobilenet_v3_large": Backbone(
        "crosskd.backbones.mobilenet_v3:MobileNetV3",
        "mobilenet_v3",
        out_channels=(24, 40, 112, 960),
        width=None,
        stages=5,
        frozen_stages=2,
        coarsest=(160, 960),
    ),
    "swin_t": Backbone(
        "crosskd.backbones.swin:Swin",
        "swin",
        out_channels=(96, 192, 384, 768),
        width=96,
        divisor=3,
        layers=(2, 2, 6, 2),
        batch_norm=False,
        drop_path=0.2,
        export_fault="how it lays its windows depends on the size of the image",
    ),
    "cspnext_tiny": _cspnext(deepen=0.167, widen=0.375),
    "cspnext_s": _cspnext(deepen=0.33, widen=0.5),
    "cspnext_m": _cspnext(deepen=0.67, widen=0.75),
    "cspnext_l": _cspnext(deepen=1.0, widen=1.0),
    "cspnext_x": _cspnext(deepen=1.33, widen=1.25),
    "cspdarknet_nano": _cspdarknet(deepen=0.33, widen=0.25, depthwise=True),
    "cspdarknet_tiny": _cspdarknet(deepen=0.33, widen=0.375),
    "cspdarknet_s": _cspdarknet(deepen=0.33, widen=0.5),
    "cspdarknet_m": _cspdarknet(deepen=0.67, widen=0.75),
    "cspdarknet_l": _cspdarknet(deepen=1.0, widen=1.0),
    "cspdarknet_x": _cspdarknet(deepen=1.33, widen=1.25),
    "rt_detr_resnet18": _resnet_vd("basic", (2, 2, 2, 2)),
    "rt_detr_resnet34": _resnet_vd("basic", (3, 4, 6, 3)),
    "rt_detr_resnet50": _resnet_vd("bottleneck", (3, 4, 6, 3)),
    "rt_detr_resnet101": _resnet_vd("bottleneck", (3, 4, 23, 3)),
    "rt_detr_resnet_tiny": _resnet_vd("basic", (1, 1, 1, 1), width=16),
    **{name: _hgnet(name) for name in HGNETS},
    "lw_detr_vit": _VIT,
    "rf_detr_dinov2": _VIT,
    **_timm(),
}
