"""torchvision's RetinaNet, FCOS and Faster R-CNN: their names and ours, and what of ours they have no form for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crosskd.convert import torchvision_regions as regions
from crosskd.convert.names import AFFINE, OURS, RESNET, THEIRS, Pairs, translate
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig
from crosskd.spec.model import PYRAMID

COUNTER = ".num_batches_tracked"
# What of a model their classes are built with, or cannot have otherwise. `recognise` starts from it.
ALWAYS: Mapping[str, Mapping[str, Any]] = {"neck": {"relu_before_p7": True}, "head": {"spread_cells": True}}
OF_DETECTOR: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "retinanet": {
        "head": {"octaves": 3, "ratios": [0.5, 1.0, 2.0], "whole_pixel_anchors": True},
    },
    "fcos": {
        "head": {
            "norm": "group",
            "conv_bias": True,
            "norm_on_bbox": True,
            "centerness_on_reg": True,
            "point_offset": 0.0,
        },
        "postprocess": {"score": "root"},
    },
}
RETINANET_SCALE, RETINANET_DEPTH = 4.0, 4
_DEPTH = 16  # convolutions that a tower of ours can have

_COMMON: Pairs = [
    *((rf"backbone\.{part}", rf"backbone\.body\.{part}") for part in RESNET),
    (rf"neck\.lateral\.(\d+)\.{AFFINE}", rf"backbone\.fpn\.inner_blocks\.(\d+)\.0\.{AFFINE}"),
    (rf"neck\.output\.([012])\.{AFFINE}", rf"backbone\.fpn\.layer_blocks\.([012])\.0\.{AFFINE}"),
    (rf"neck\.output\.3\.{AFFINE}", rf"backbone\.fpn\.extra_blocks\.p6\.{AFFINE}"),
    (rf"neck\.output\.4\.{AFFINE}", rf"backbone\.fpn\.extra_blocks\.p7\.{AFFINE}"),
    (rf"head\.cls\.{AFFINE}", rf"head\.classification_head\.cls_logits\.{AFFINE}"),
    (rf"head\.box\.{AFFINE}", rf"head\.regression_head\.bbox_reg\.{AFFINE}"),
]
_TOWERS = {"cls": "classification", "box": "regression"}
PAIRS: dict[str, Pairs] = {
    "retinanet": [
        *_COMMON,
        *(
            (rf"head\.{ours}_tower\.(\d+)\.{part}\.{AFFINE}", rf"head\.{theirs}_head\.conv\.(\d+)\.{place}\.{AFFINE}")
            for ours, theirs in _TOWERS.items()
            for place, part in enumerate(("conv", "norm"))
        ),
    ],
    # One sequence of convolution, norm, ReLU, convolution ...
    "fcos": [
        *_COMMON,
        (rf"head\.centerness\.{AFFINE}", rf"head\.regression_head\.bbox_ctrness\.{AFFINE}"),
        *(
            (rf"head\.{ours}_tower\.{i}\.{part}\.{AFFINE}", rf"head\.{theirs}_head\.conv\.{3 * i + place}\.{AFFINE}")
            for ours, theirs in _TOWERS.items()
            for i in range(_DEPTH)
            for place, part in enumerate(("conv", "norm"))
        ),
    ],
}
PAIRS["faster_rcnn"] = regions.PAIRS
# Names of versions before 0.13, which the published RetinaNet still has: one sequence of convolution, ReLU, ...
_OLD_NECK: Pairs = [
    (rf"neck\.lateral\.(\d+)\.{AFFINE}", rf"backbone\.fpn\.inner_blocks\.(\d+)\.{AFFINE}"),
    (rf"neck\.output\.([012])\.{AFFINE}", rf"backbone\.fpn\.layer_blocks\.([012])\.{AFFINE}"),
]
_OLD: dict[str, Pairs] = {
    "fcos": _OLD_NECK,
    "faster_rcnn": regions.OLD_PAIRS,
    "retinanet": [
        *_OLD_NECK,
        *(
            (rf"head\.{ours}_tower\.{i}\.conv\.{AFFINE}", rf"head\.{theirs}_head\.conv\.{2 * i}\.{AFFINE}")
            for ours, theirs in _TOWERS.items()
            for i in range(_DEPTH)
        ),
    ],
}


def to_torchvision(name: str, detector: str) -> str | None:
    """Our name -> torchvision's, in a model of `detector`; None for what it has no place for."""
    return translate(name, PAIRS.get(detector, []), OURS)


def from_torchvision(name: str, detector: str) -> str | None:
    """torchvision's name -> ours; None for what such a detector does not have. Old names are known too."""
    return translate(name, PAIRS.get(detector, []), THEIRS) or translate(name, _OLD.get(detector, []), THEIRS)


def tensor_from_torchvision(name: str, tensor: Tensor, model: ModelConfig) -> Tensor:
    """torchvision's tensor of our `name` as that of a `model`."""
    return regions.tensor_from_torchvision(name, tensor) if model.two_stage else tensor


def tensor_to_torchvision(name: str, tensor: Tensor, model: ModelConfig) -> Tensor:
    """The tensor `name` of a `model` as torchvision's."""
    return regions.tensor_to_torchvision(name, tensor) if model.two_stage else tensor


def implied(model: ModelConfig) -> dict[str, Tensor]:
    """Tensors of ours that are always the same in torchvision, by our names: FCOS has no factor per level."""
    if not registry.DETECTORS[model.detector].scales:
        return {}
    return {f"head.scales.{level}": torch.ones(()) for level in range(len(model.strides))}


def unmappable_names(state: Mapping[str, Tensor], model: ModelConfig) -> list[str]:
    """Names of ours that are left out of a torchvision file: factors of 1, and the counters of a frozen norm.

    torchvision's frozen norms have no counters. Where ours were frozen only later, theirs would drop them in silence.
    """
    names = [name for name in state if name.startswith("head.scales.")]
    counters = [name for name in state if name.endswith(COUNTER)]
    if model.backbone.norm_frozen and not any(bool(state[name].any()) for name in counters):
        names += counters
    return names


def incompatibilities(model: ModelConfig, state: Mapping[str, Tensor] | None = None) -> list[str]:
    """Why torchvision cannot be such a detector, with the tensors of `state` (by our names); empty where it can."""
    if model.two_stage:
        return regions.incompatibilities(model)
    if model.detector not in OF_DETECTOR:
        return [f"it has RetinaNet, FCOS and Faster R-CNN, and no {model.detector}"]
    backbone, entry = model.backbone, registry.BACKBONES[model.backbone.name]
    wide = model.neck.channels == entry.channels(backbone.width)[-1]
    faults = {
        f"its backbone for detectors is a ResNet of width 64, not {backbone.name} of width {backbone.width}": (
            entry.family != "resnet" or not entry.weights or backbone.width != entry.width
        ),
        "its ResNets stride in the 3 x 3 convolution, and backbone.style is caffe": backbone.style == "caffe",
        f"its pyramid has the strides {PYRAMID}, not {model.strides}": model.strides != PYRAMID,
        "its neck and head have the same channels": model.neck.channels != model.head.channels,
        "it takes P6 from P5 where C5 has as many channels": model.neck.p6_from == "c5" and wide,
        "its images are RGB, and pixels.order is bgr": model.pixels.order == "bgr",
        **_fixed(model),
    }
    if model.detector == "retinanet":
        faults |= {
            f"its anchors begin at 4 strides, and anchor_scale is {model.anchor_scale:g}": (
                model.anchor_scale != RETINANET_SCALE
            ),
            f"its RetinaNet's towers have {RETINANET_DEPTH} convolutions, not {model.head.depth}": (
                model.head.depth != RETINANET_DEPTH
            ),
            "its RetinaNet's convolutions have a bias exactly where they have no norm": (
                model.head.tower_bias != (model.head.norm == "none")
            ),
        }
    scales = [name for name in state or {} if name.startswith("head.scales.")]
    if state and any(float(state[name]) != 1 for name in scales):
        faults["its FCOS has no factor per level, and head.scales are not all 1"] = True
    return [why for why, holds in faults.items() if holds]


def _fixed(model: ModelConfig) -> dict[str, bool]:
    """Each knob that torchvision fixes -> whether the model has it otherwise."""
    found = {}
    for sections in (ALWAYS, OF_DETECTOR[model.detector]):
        for section, knobs in sections.items():
            for knob, wanted in knobs.items():
                has = getattr(getattr(model, section), knob)
                found[f"it needs {section}.{knob} to be {_yaml(wanted)}, not {_yaml(has)}"] = has != wanted
    return found


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool | None) else str(value)
