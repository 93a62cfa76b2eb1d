"""Detectors and batches small enough for tests of a second."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crosskd.detectors.detector import Detector, build_detector
from crosskd.spec.config import BackboneConfig, HeadConfig, ModelConfig, NeckConfig
from crosskd.structures import Targets

CLASSES = 3


def config(
    *,
    detector: str = "gfl",
    channels: int = 16,
    depth: int = 3,
    backbone: dict[str, Any] | None = None,
    neck: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    **more: Any,
) -> ModelConfig:
    bins = {"reg_max": more.pop("reg_max", 8)} if detector == "gfl" else {}
    return ModelConfig(
        detector=detector,
        backbone=BackboneConfig(**{"name": "resnet_tiny", "width": 8, **(backbone or {})}),
        neck=NeckConfig(**{"channels": channels, **(neck or {})}),
        head=HeadConfig(**{"channels": channels, "depth": depth, "norm_groups": 4, **bins, **(head or {})}),
        **more,
    )


def detector(seed: int = 0, classes: int = CLASSES, **options: Any) -> Detector:
    """A tiny detector whose head is far enough from its timid start to say different things in different places."""
    torch.manual_seed(seed)
    model = build_detector(config(**options), classes)
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            if parameter.dim() == 4:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
            elif "norm.bias" in name:
                parameter.normal_(std=0.1)
    return model


def shaken(model: Detector, seed: int) -> Detector:
    """In double precision, with running statistics far from their start."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.double().named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


@torch.no_grad()
def settled(model: Detector, images: Tensor) -> Detector:
    """With the running statistics of `images`: many layers of batch norm that have seen nothing leave flat maps."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    maps = model.train().features(images)
    if not model.config.two_stage:  # the small one of two stages has no norm in its head
        model.head(maps)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    return model.eval()


def batch(seed: int = 0, images: int = 2, size: tuple[int, int] = (64, 96)) -> tuple[Tensor, Targets]:
    """Noise with two boxes an image; the second image has 32 columns of batch padding."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 3, height, width, generator=generator)
    boxes = [torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 30.0]]) for _ in range(images)]
    labels = [torch.tensor([0, i % CLASSES]) for i in range(images)]
    sizes = [(height, width)] + [(height - 10, width - 40)] * (images - 1)
    padded = [(height, width)] + [(height, width - 32)] * (images - 1)
    return pixels, Targets(boxes, labels, sizes, padded)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([values.sum() for values in losses.values()]).sum()


def two_stage_config(*, channels: int = 16, **more: Any) -> ModelConfig:
    """Of Faster R-CNN, with few regions."""
    regions = {"channels": 32, "samples": 16, "train_proposals": 64, "proposals": 64, **more.pop("regions", {})}
    backbone = {"name": "resnet_tiny", "width": 8, **more.pop("backbone", {})}
    return ModelConfig.model_validate(
        {"detector": "faster_rcnn", "backbone": backbone, "neck": {"channels": channels}, "regions": regions, **more}
    )


def two_stage(seed: int = 0, classes: int = CLASSES, **options: Any) -> Detector:
    """A tiny Faster R-CNN that says different things of different places."""
    torch.manual_seed(seed)
    model = build_detector(two_stage_config(**options), classes)
    with torch.no_grad():
        for layer in (model.head.cls, model.head.box, model.head.rpn.cls_logits, model.head.rpn.bbox_pred):
            layer.weight.normal_(std=(1 / layer.weight[0].numel()) ** 0.5)
    return model
