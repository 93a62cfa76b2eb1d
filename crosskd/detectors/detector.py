"""A one-stage detector: backbone, feature pyramid, dense head. Read this first, then `head.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.fpn import FPN
from crosskd.detectors.pafpn import PAFPN
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig, PostprocessConfig
from crosskd.structures import Detections, Losses, Size, Targets

NECKS = {"fpn": FPN, "pafpn": PAFPN, "yolox_pafpn": PAFPN}


class Detector(nn.Module):
    """Images to losses (`forward`, for training) or to detections (`detect`).

    `train()` keeps frozen stages, and batch norm where `norm_eval` says so, in evaluation mode.
    """

    def __init__(self, config: ModelConfig, num_classes: int, *, pretrained: bool = True) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.strides = list(config.strides)
        backbone = registry.load(registry.lookup(registry.BACKBONES, config.backbone.name, "backbone").target)
        head = registry.load(registry.lookup(registry.DETECTORS, config.detector, "detector").target)
        self.backbone: Any = backbone(config.backbone, load=pretrained)
        self.neck = NECKS[config.neck.kind](self.backbone.channels, config.neck, len(config.strides))
        self.head: DenseHead = head(config, num_classes)

    @property
    def max_detections(self) -> int:
        """The most detections that `detect` makes of an image, as the detector's own knobs say."""
        return self.config.postprocess.max_detections

    def select_classes(self, kept: Sequence[int]) -> None:
        """Keep these classes alone, in this order: the detector becomes one of `len(kept)` classes."""
        self.head.select_classes(kept)
        self.num_classes = len(kept)

    def features(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> P3, P4, ..., each [N, C, H_l, W_l]."""
        maps: list[Tensor] = self.neck(self.backbone(images))
        return maps

    def forward(self, images: Tensor, targets: Targets) -> Losses:
        """The detection loss of a batch, images [N, 3, H, W]: term -> [L], one value per level."""
        features = self.features(images)
        predictions = self.head(features)
        return self.head.loss(predictions, self.head.assign(predictions, targets))

    @torch.no_grad()
    def detect(
        self, images: Tensor, sizes: Sequence[Size], postprocess: PostprocessConfig | None = None
    ) -> list[Detections]:
        """One `Detections` per image, in pixels of `images`; clipped to each image's (height, width), but YOLOX's."""
        return self.head.detect(self.head(self.features(images)), sizes, postprocess or self.config.postprocess)


def build_detector(config: ModelConfig, num_classes: int, *, pretrained: bool = True) -> Detector:
    """A detector as `config` says; `pretrained=False` leaves `backbone.init` out, for weights that come later.

    Raises `WeightsError` where the backbone's weights cannot be had.
    """
    return Detector(config, num_classes, pretrained=pretrained)
