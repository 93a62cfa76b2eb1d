"""The closed list of names a configuration may use. Imports no torch, so the API can check a name without it.

A name leads to `module:Class`, which only the training process imports. A configuration never carries a
dotted path: that would be remote code execution. The backbones stand in `backbone_registry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, TypeVar

from crosskd.errors import ConfigError
from crosskd.spec.backbones.batch_norm import TORCH_NORM, YOLOX_NORM, BatchNorm
from crosskd.spec.backbones.registry import BACKBONES as BACKBONES
from crosskd.spec.backbones.registry import TIMM as TIMM
from crosskd.spec.backbones.registry import Family
from crosskd.spec.detr.types import TYPES, ModelType
from crosskd.spec.nearest import did_you_mean, nearest

T = TypeVar("T")

NEAR = 3  # names that a message proposes

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
    beta: float = 1.0  # of the quality focal weight
    class_temperature: float | None = None  # of classes by softmax
    pkd_alone: Mapping[str, Any] = field(default_factory=lambda: _PKD_ALONE)
    fgd: Mapping[str, Any] = field(default_factory=lambda: _FGD_ANCHORS)
    cwd: Mapping[str, Any] = field(default_factory=lambda: _CWD_RETINANET)


DetectorFamily = Literal["dense", "two_stage", "detr"]
# Each family's detector: how it is built of its parts, trained and looked at.
FAMILIES: dict[DetectorFamily, str] = {
    "dense": "crosskd.detectors.dense.detector:DenseDetector",
    "two_stage": "crosskd.detectors.two_stage.detector:TwoStageDetector",
    "detr": "crosskd.detectors.detr.detector:DetrDetector",
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
    # Those of its losses that ask for the ground truth, and so are of labelled images alone.
    truth: Literal["all"] | tuple[str, ...] = ()

    def target_for(self, detector: str) -> str:
        """The class for a teacher of this name."""
        return self.of_family.get(DETECTORS[detector].family, self.target)


def _detr(kind: ModelType) -> Detector:
    """PKD's weights are those for RetinaNet: nobody has published any for a DETR."""
    return Detector(
        FAMILIES["detr"],
        Published(cut=0, box=None, cls_weight=1.0, box_weight=1.0, centerness_weight=0.0, pkd_weight=2.0, beta=0.0),
        defaults={
            "detr": kind.defaults,
            "postprocess": {"score_threshold": 0.0, "max_detections": kind.max_detections},
        },
        family="detr",
        scales=False,
    )


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
    **{name: _detr(kind) for name, kind in TYPES.items()},
}

# The backbones that detectors are published with: with these, the rest of the model has published defaults, too.
OWN_BACKBONES: Mapping[str, Family] = {"rtmdet": "cspnext", "yolox": "cspdarknet"}

# The backbones with which RTMDet is published with exponential distances.
EXP_ON_REG = frozenset({"cspnext_m", "cspnext_l", "cspnext_x"})

TERMS: dict[str, Term] = {
    "crosskd": Term(
        "crosskd.distill.crosskd:CrossKD",
        "CrossKD",
        of_family={
            "two_stage": "crosskd.distill.crosskd_regions:RegionCrossKD",
            "detr": "crosskd.distill.queries.crosskd:QueryCrossKD",
        },
    ),
    "pkd": Term("crosskd.distill.maps.pkd:PKD", "PKD"),
    "direct": Term(
        "crosskd.distill.direct:Direct",
        "Direct mimicking",
        of_family={"detr": "crosskd.distill.queries.direct:QueryDirect"},
    ),
    "ld": Term("crosskd.distill.ld:LD", "LD", truth=("ld_vlr",)),
    "fitnet": Term("crosskd.distill.maps.fitnet:FitNet", "FitNet"),
    "fgd": Term("crosskd.distill.maps.fgd:FGD", "FGD", truth=("fgd_foreground", "fgd_background")),
    "mgd": Term("crosskd.distill.maps.mgd:MGD", "MGD"),
    "cwd": Term("crosskd.distill.maps.cwd:CWD", "CWD"),
    "skd": Term("crosskd.distill.maps.skd:SKD", "SKD"),
    "bckd": Term("crosskd.distill.bckd:BCKD", "BCKD"),
    "imitation": Term("crosskd.distill.maps.imitation:Imitation", "Feature imitation", truth="all"),
    "fgfi": Term("crosskd.distill.maps.fgfi:FGFI", "FGFI", truth="all"),
    "defeat": Term("crosskd.distill.maps.defeat:DeFeat", "DeFeat", truth="all"),
    "gid": Term("crosskd.distill.gid:GID", "GID"),
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
