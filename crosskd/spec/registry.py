"""The closed list of names a configuration may use. Imports no torch, so the API can check a name without it.

A name leads to `module:Class`, which only the training process imports. A configuration never carries a
dotted path: that would be remote code execution.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

from crosskd.errors import ConfigError
from crosskd.spec.nearest import did_you_mean, nearest

T = TypeVar("T")

NEAR = 3  # names that a message proposes


Family = Literal["resnet", "mobilenet", "swin", "cspnext", "cspdarknet", "timm"]


@dataclass(frozen=True)
class BatchNorm:
    """How a batch norm is set up; torch's own numbers where nothing else is published."""

    eps: float = 1e-5
    momentum: float = 0.1  # of the newest batch in the running statistics


TORCH_NORM = BatchNorm()
YOLOX_NORM = BatchNorm(eps=1e-3, momentum=0.03)


@dataclass(frozen=True)
class Backbone:
    """A backbone and the facts that shape everything behind it, all told without torch.

    `out_channels` are the channels of C2..C5, at strides 4, 8, 16, 32, at the default width; of a timm model, C3..C5.
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
    frozen_stages: int = -1  # by default, where pretrained
    norm_eval: bool = True  # by default, where pretrained and there is batch norm
    batch_norm: bool = True  # whether it may have batch norm
    depthwise: bool = False  # CSPDarknet: 3 x 3 convolutions channel by channel, then 1 x 1 ones
    drop_path: float = 0.0  # by default; 0: it has none
    levels: tuple[int, ...] = ()  # timm: which of its maps these are
    parameters: int = 0  # timm: how many; others are counted by `crosskd.spec.shapes`
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


BoxMimic = Literal["kl", "giou", "iou"]
Activation = Literal["relu", "silu"]


# FGD's knobs (arXiv 2111.11837 and its configurations) for RetinaNet and GFL; those of FCOS; and those of Faster R-CNN.
_FGD_ANCHORS = {
    "foreground_weight": 1e-3,
    "background_weight": 5e-4,
    "attention_weight": 5e-4,
    "global_weight": 5e-6,
    "temperature": 0.5,
}
_FGD_POINTS = {
    "foreground_weight": 1.6e-3,
    "background_weight": 8e-4,
    "attention_weight": 8e-4,
    "global_weight": 8e-6,
    "temperature": 0.8,
}
_FGD_REGIONS = {
    "foreground_weight": 5e-5,
    "background_weight": 2.5e-5,
    "attention_weight": 5e-5,
    "global_weight": 5e-7,
    "temperature": 0.5,
}
# CWD's knobs for RetinaNet, by the authors' port to MMDetection; and those of MMRazor for GFL.
_CWD_RETINANET = {"weight": 5.0, "temperature": 1.0, "levels": 4}
_CWD_GFL = {"weight": 10.0, "temperature": 1.0, "levels": 5}
# PKD's without CrossKD: MMRazor's for RetinaNet (from RetinaNet and from FCOS) and RepPoints.
_PKD_ALONE = {"weight": 10.0, "levels": 4}


@dataclass(frozen=True)
class Published:
    """What the CrossKD paper (arXiv 2306.11369) and its configurations use for a teacher of a detector.

    And what the configurations of other methods use; `docs/training.md` says which of these are published and which
    taken over from the nearest detector.
    """

    cut: int  # convolutions of the head that the student keeps
    box: BoxMimic | None  # how boxes are compared; None: there is one way
    cls_weight: float
    box_weight: float
    centerness_weight: float  # 0: centerness is not imitated
    pkd_weight: float  # beside CrossKD, on all levels
    objectness_weight: float = 0.0  # 0: objectness is not imitated
    class_temperature: float | None = None  # of classes by softmax
    pkd_alone: Mapping[str, Any] = field(default_factory=lambda: _PKD_ALONE)
    fgd: Mapping[str, Any] = field(default_factory=lambda: _FGD_ANCHORS)
    cwd: Mapping[str, Any] = field(default_factory=lambda: _CWD_RETINANET)


DetectorFamily = Literal["dense", "two_stage"]
# Each family's detector: how it is built of its parts, trained and looked at.
FAMILIES: dict[DetectorFamily, str] = {
    "dense": "crosskd.detectors.dense.detector:DenseDetector",
    "two_stage": "crosskd.detectors.two_stage.detector:TwoStageDetector",
}


@dataclass(frozen=True)
class Detector:
    """A detector and the facts about its head that can be told without torch.

    `defaults` are its own default knobs, by section of `ModelConfig`, where they differ from the section's.
    `reads` are the knobs that not every detector reads; of all others of the kind it must keep the default.
    """

    target: str
    published: Published
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reads: frozenset[str] = frozenset()
    family: DetectorFamily = "dense"
    scales: bool = True  # a learnt factor per level on the box code
    centerness: bool = False
    objectness: bool = False  # whether there is an object at all: what classes and boxes are conditional on
    clips: bool = True  # boxes to their image, before suppression
    activation: Activation = "relu"  # of the towers
    own_layers: bool = False  # each level has prediction layers of its own, of one cell each
    own_convs: bool = False  # each level has towers of its own
    batch_norm: bool = False  # each level has batch norm of its own in the towers; else group norm, or none
    norm: BatchNorm = TORCH_NORM  # these batch norms
    dynamic: bool = False  # what is predicted decides what is assigned


@dataclass(frozen=True)
class Term:
    target: str
    method: str  # its name in messages
    of_family: Mapping[DetectorFamily, str] = field(default_factory=dict)  # another class, by the teacher's family

    def target_for(self, detector: str) -> str:
        """The class for a teacher of this name."""
        return self.of_family.get(DETECTORS[detector].family, self.target)


TIMM = "timm/"  # begins the name of a backbone of the timm package
TIMM_MAPS = 3  # C3..C5: what nothing reads is not computed, and the norm that some models have on C2 stays away
TIMM_TABLE = Path(__file__).parents[1] / "backbones" / "timm_models.json"
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
    **_timm(),
}

_FOCAL = frozenset({"losses.focal", "losses.focal_gamma", "losses.focal_alpha"})

DETECTORS: dict[str, Detector] = {
    "gfl": Detector(
        "crosskd.detectors.dense.gfl:GFL",
        Published(cut=3, box="kl", cls_weight=1.0, box_weight=4.0, centerness_weight=0.0, pkd_weight=6.0, cwd=_CWD_GFL),
        reads=frozenset(
            {
                "anchor_scale",
                "head.reg_max",
                "losses.quality_focal",
                "losses.quality_focal_beta",
                "losses.distribution_focal",
                "losses.giou",
            }
        ),
    ),
    "retinanet": Detector(
        "crosskd.detectors.dense.retinanet:RetinaNet",
        Published(cut=3, box="giou", cls_weight=1.0, box_weight=1.0, centerness_weight=0.0, pkd_weight=2.0),
        defaults={
            "": {"anchor_scale": 4.0},
            "head": {"norm": "none"},
            "losses": {"giou": 0.0, "l1": 1.0},
            "postprocess": {"nms_iou": 0.5},
        },
        reads=_FOCAL
        | {"anchor_scale", "head.octaves", "head.ratios", "head.whole_pixel_anchors", "head.spread_cells"}
        | {"losses.l1", "losses.iou", "losses.giou"},
        scales=False,
    ),
    "atss": Detector(
        "crosskd.detectors.dense.atss:ATSS",
        Published(cut=3, box="giou", cls_weight=1.0, box_weight=1.0, centerness_weight=1.0, pkd_weight=1.0),
        reads=_FOCAL | {"anchor_scale", "losses.iou", "losses.giou", "losses.centerness"},
        centerness=True,
    ),
    "fcos": Detector(
        "crosskd.detectors.dense.fcos:FCOS",
        Published(
            cut=2, box="iou", cls_weight=0.4, box_weight=0.75, centerness_weight=0.0, pkd_weight=2.0, fgd=_FGD_POINTS
        ),
        defaults={
            "neck": {"relu_before_p7": True},
            "losses": {"giou": 0.0, "iou": 1.0},
            "postprocess": {"nms_iou": 0.5},
        },
        reads=_FOCAL
        | {"head.center_sampling", "head.center_radius", "head.norm_on_bbox", "head.centerness_on_reg"}
        | {"head.point_offset", "head.spread_cells", "postprocess.score"}
        | {"losses.iou", "losses.giou", "losses.centerness"},
        centerness=True,
    ),
    "rtmdet": Detector(
        "crosskd.detectors.dense.rtmdet:RTMDet",
        # Nobody has published CrossKD for it: these are RetinaNet's, and the cut in the middle of its two convolutions.
        Published(cut=1, box="giou", cls_weight=1.0, box_weight=1.0, centerness_weight=0.0, pkd_weight=2.0),
        defaults={
            "head": {"depth": 2, "norm": "batch"},
            "postprocess": {"score_threshold": 0.001, "nms_iou": 0.65, "pre_nms": 30_000, "max_detections": 300},
        },
        reads=frozenset({"head.exp_on_reg", "losses.quality_focal", "losses.quality_focal_beta", "losses.giou"}),
        scales=False,
        activation="silu",
        own_layers=True,
        batch_norm=True,
        dynamic=True,
    ),
    "yolox": Detector(
        "crosskd.detectors.dense.yolox:YOLOX",
        # As for RTMDet nobody has published CrossKD for it.
        Published(
            cut=1,
            box="giou",
            cls_weight=1.0,
            box_weight=1.0,
            centerness_weight=0.0,
            pkd_weight=2.0,
            objectness_weight=1.0,
        ),
        defaults={
            "head": {"depth": 2, "norm": "batch"},
            "losses": {"iou": 5.0, "l1": 1.0},
            "postprocess": {"score_threshold": 0.01, "nms_iou": 0.65, "pre_nms": 10_000, "max_detections": 1000},
        },
        reads=frozenset(
            {
                "head.depthwise",
                "losses.cross_entropy",
                "losses.objectness",
                "losses.iou",
                "losses.l1",
                "losses.l1_last_epochs",
            }
        ),
        scales=False,
        objectness=True,
        clips=False,
        activation="silu",
        own_layers=True,
        own_convs=True,
        batch_norm=True,
        norm=YOLOX_NORM,
        dynamic=True,
    ),
    "faster_rcnn": Detector(
        "crosskd.detectors.two_stage.head:RegionHead",
        # The authors' branch `faster-rcnn`: nothing is cut, and boxes are compared by their deltas.
        Published(
            cut=0,
            box=None,
            cls_weight=0.5,
            box_weight=1.0,
            centerness_weight=0.0,
            pkd_weight=6.0,
            class_temperature=3.0,
            pkd_alone={"weight": 6.0, "levels": 5},
            fgd=_FGD_REGIONS,
        ),
        defaults={"": {"strides": [4, 8, 16, 32, 64]}, "postprocess": {"nms_iou": 0.5}, "regions": {}},
        reads=frozenset({"anchor_scale"}),
        family="two_stage",
        scales=False,
    ),
}

# The backbones that detectors are published with: with these, the rest of the model has published defaults, too.
OWN_BACKBONES: Mapping[str, Family] = {"rtmdet": "cspnext", "yolox": "cspdarknet"}

# The backbones with which RTMDet is published with exponential distances.
EXP_ON_REG = frozenset({"cspnext_m", "cspnext_l", "cspnext_x"})

TERMS: dict[str, Term] = {
    "crosskd": Term(
        "crosskd.distill.crosskd:CrossKD",
        "CrossKD",
        of_family={"two_stage": "crosskd.distill.crosskd_regions:RegionCrossKD"},
    ),
    "pkd": Term("crosskd.distill.pkd:PKD", "PKD"),
    "direct": Term("crosskd.distill.direct:Direct", "Direct mimicking"),
    "ld": Term("crosskd.distill.ld:LD", "LD"),
    "fitnet": Term("crosskd.distill.fitnet:FitNet", "FitNet"),
    "fgd": Term("crosskd.distill.fgd:FGD", "FGD"),
    "mgd": Term("crosskd.distill.mgd:MGD", "MGD"),
    "cwd": Term("crosskd.distill.cwd:CWD", "CWD"),
}


# By family.
DENSE = {name: entry for name, entry in DETECTORS.items() if entry.family == "dense"}


def load(target: str) -> Any:
    """Import the class behind a registry entry's `module:Class`. Imports torch."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """The entry called `name`, or a `ConfigError` that says which names there are."""
    try:
        return table[name]
    except KeyError:
        raise ConfigError(f"unknown {kind} {name!r}", remedy=f"{use_one_of(table, name)}.") from None


def use_one_of(table: Mapping[str, Any], name: str) -> str:
    """What to do about a name that the table does not have: the nearest, and those there are."""
    return f"{did_you_mean(name, table.keys())} Use one of: {choices(table, name)}".lstrip()


def choices(table: Mapping[str, Any], name: str) -> str:
    """The names of a table for a message; of timm's, which are a thousand, those that are near `name`."""
    timm = [entry for entry in table if entry.startswith(TIMM)]
    text = ", ".join(sorted(table.keys() - set(timm)))
    if timm:
        near = nearest(name, timm, NEAR)
        text += f", or one of {len(timm)} {TIMM}... models" + (f", such as {', '.join(near)}" if near else "")
    return text
