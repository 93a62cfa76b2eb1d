"""torchvision's Faster R-CNN: its names and ours, and its order of classes, the background first."""

from __future__ import annotations

import torch
from torch import Tensor

from crosskd.convert.names import AFFINE, RESNET, Pairs
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig
from crosskd.spec.regions import RegionConfig

CLASSES, BOXES = "head.cls.", "head.box."  # begin our names of the layers with rows of each class
_STATE = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

PAIRS: Pairs = [
    *((rf"backbone\.{part}", rf"backbone\.body\.{part}") for part in RESNET),
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
    plain = RegionConfig.model_fields
    faults = {
        f"its backbone for detectors is a ResNet of width 64, not {backbone.name} of width {backbone.width}": (
            entry.family != "resnet" or not entry.weights or backbone.width != entry.width
        ),
        "its ResNets stride in the 3 x 3 convolution, and backbone.style is caffe": backbone.style == "caffe",
        f"its anchors begin at 8 strides, and anchor_scale is {model.anchor_scale:g}": model.anchor_scale != 8,
        "its images are RGB, and pixels.order is bgr": model.pixels.order == "bgr",
        **{
            f"it needs regions.{knob} to be {plain[knob].default}, not {getattr(regions, knob)}": (
                getattr(regions, knob) != plain[knob].default
            )
            for knob in ("aligned", "sampling_ratio")
        },
    }
    return [why for why, holds in faults.items() if holds]
