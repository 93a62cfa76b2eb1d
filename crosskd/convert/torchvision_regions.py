"""torchvision's Faster R-CNN: its names and ours, and its order of classes, the background first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crosskd.convert.names import AFFINE, RESNET, Pairs
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig
from crosskd.spec.regions import COARSEST, RegionConfig

MOBILENET = "mobilenet_v3_large"
ANCHOR_SIZES = [32, 64, 128, 256, 512]  # of a cell, on a MobileNetV3
EPS = 1e-5  # of its norms there; as a classifier it has 1e-3
# How its builders on a MobileNetV3 set up what is no tensor; the one for small images looks at fewer proposals.
ON_MOBILENET: dict[str, dict[str, Any]] = {
    "backbone": {"norm_eps": EPS},
    "regions": {"anchor_sizes": ANCHOR_SIZES, "rpn_score_threshold": 0.05},
}
SMALL_IMAGES: dict[str, dict[str, Any]] = {"regions": {"proposals": 150}, "postprocess": {"pre_nms": 150}}
SMALL_DIGEST = "907ea3f9"  # begins the sha256, and ends the name, of its published file for images of 320 pixels

CLASSES, BOXES = "head.cls.", "head.box."  # begin our names of the layers with rows of each class
_STATE = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

PAIRS: Pairs = [
    *((rf"backbone\.{part}", rf"backbone\.body\.{part}") for part in RESNET),
    (r"backbone\.features\.(\d+\..+)", r"backbone\.body\.(\d+\..+)"),  # MobileNetV3
    (
        rf"neck\.(inner|layer)_blocks\.([0-3])\.([01])\.{_STATE}",
        rf"backbone\.fpn\.(inner|layer)_blocks\.([0-3])\.([01])\.{_STATE}",
    ),
    (rf"head\.rpn\.conv\.([01])\.0\.{AFFINE}", rf"rpn\.head\.conv\.([01])\.0\.{AFFINE}"),
    (rf"head\.rpn\.(cls_logits|bbox_pred)\.{AFFINE}", rf"rpn\.head\.(cls_logits|bbox_pred)\.{AFFINE}"),
    (rf"head\.region\.(fc6|fc7|5)\.{AFFINE}", rf"roi_heads\.box_head\.(fc6|fc7|5)\.{AFFINE}"),
    (rf"head\.region\.([0-3])\.([01])\.{_STATE}", rf"roi_heads\.box_head\.([0-3])\.([01])\.{_STATE}"),
    (rf"head\.cls\.{AFFINE}", rf"roi_heads\.box_predictor\.cls_score\.{AFFINE}"),
    (rf"head\.box\.{AFFINE}", rf"roi_heads\.box_predictor\.bbox_pred\.{AFFINE}"),
]
# Of versions before 0.13, which the published first version still has.
OLD_PAIRS: Pairs = [
    (rf"neck\.(inner|layer)_blocks\.([0-3])\.0\.{AFFINE}", rf"backbone\.fpn\.(inner|layer)_blocks\.([0-3])\.{AFFINE}"),
    (rf"head\.rpn\.conv\.0\.0\.{AFFINE}", rf"rpn\.head\.conv\.{AFFINE}"),
]


def tensor_from_torchvision(name: str, tensor: Tensor) -> Tensor:
    """torchvision's tensor of our `name` as ours: the background goes behind the classes, and its deltas, which
    nothing reads, are left out. A tensor without rows is left as it is: its shape is then refused."""
    if not tensor.ndim:
        return tensor
    if name.startswith(CLASSES):
        return torch.cat((tensor[1:], tensor[:1]))
    return tensor[4:] if name.startswith(BOXES) else tensor


def tensor_to_torchvision(name: str, tensor: Tensor) -> Tensor:
    """Our tensor `name` as torchvision's; the background's deltas, which nothing reads, are 0."""
    if name.startswith(CLASSES):
        return torch.cat((tensor[-1:], tensor[:-1]))
    return torch.cat((torch.zeros_like(tensor[:4]), tensor)) if name.startswith(BOXES) else tensor


def incompatibilities(model: ModelConfig) -> list[str]:
    """Why torchvision cannot be such a detector; empty where it can."""
    assert model.regions is not None
    backbone, regions = model.backbone, model.regions
    entry = registry.BACKBONES[backbone.name]
    plain, sizes = RegionConfig.model_fields, ANCHOR_SIZES if backbone.name == MOBILENET else None
    mobile = backbone.name == MOBILENET
    faults = {
        f"its backbone for detectors is a ResNet of width 64 or a {MOBILENET}, not {backbone.name} of width "
        f"{backbone.width}": not mobile
        and (entry.family != "resnet" or not entry.weights or backbone.width != entry.width),
        f"on a {MOBILENET} its pyramid has strides {COARSEST}, not {model.strides}": mobile and not model.coarsest,
        f"its {MOBILENET} has an eps of {EPS:g} in its norms, not backbone.norm_eps {backbone.norm_eps}": (
            mobile and backbone.norm_eps != EPS
        ),
        "its ResNets stride in the 3 x 3 convolution, and backbone.style is caffe": backbone.style == "caffe",
        f"its anchors begin at 8 strides, and anchor_scale is {model.anchor_scale:g}": (
            not mobile and model.anchor_scale != 8
        ),
        f"its anchors have the sides {sizes}, and regions.anchor_sizes are {regions.anchor_sizes}": (
            regions.anchor_sizes != sizes
        ),
        "its images are RGB, and pixels.order is bgr": model.pixels.order == "bgr",
        **{
            f"it needs regions.{knob} to be {plain[knob].default}, not {getattr(regions, knob)}": (
                getattr(regions, knob) != plain[knob].default
            )
            for knob in ("aligned", "sampling_ratio", "whole_pixel_anchors", "spread_cells")
        },
    }
    return [why for why, holds in faults.items() if holds]
