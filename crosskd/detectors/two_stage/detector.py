"""A two-stage detector, Faster R-CNN (arXiv 1506.01497): backbone, pyramid from P2 on, proposals, region head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosskd.detectors.detector import Detector
from crosskd.detectors.two_stage.head import SIDE, RegionHead
from crosskd.detectors.two_stage.pyramid import RegionFPN
from crosskd.detectors.two_stage.view import RegionPass
from crosskd.spec.config import ModelConfig, PostprocessConfig
from crosskd.spec.distill.needs import Need, Side
from crosskd.structures import Detections, Size, Targets


class TwoStageDetector(Detector):
    """It proposes first, samples regions of these, and predicts of the sampled ones."""

    head: RegionHead

    def __init__(self, config: ModelConfig, num_classes: int, *, pretrained: bool = True) -> None:
        super().__init__(config, num_classes, pretrained=pretrained)
        if config.coarsest:
            self.backbone.give_coarsest()
        self.neck = RegionFPN(self.backbone.channels, config)
        self.head = RegionHead(config, num_classes)

    @torch.no_grad()
    def detect(
        self, images: Tensor, sizes: Sequence[Size], postprocess: PostprocessConfig | None = None
    ) -> list[Detections]:
        return self.head.detect(self.features(images), sizes, postprocess or self.config.postprocess)

    @torch.no_grad()
    def found(self, made: RegionPass, sizes: Sequence[Size], postprocess: PostprocessConfig) -> list[Detections]:
        return self.head.detect(made.features, sizes, postprocess)

    def view(
        self, side: Side, features: list[Tensor], targets: Targets, needs: Sequence[Need], assigned: Any = None
    ) -> RegionPass:
        return RegionPass(side, self.head, features, targets, needs, assigned)

    def network(self, images: Tensor) -> None:
        """As many regions as it may propose."""
        assert self.config.regions is not None
        features = self.features(images)
        self.head.rpn(features)
        regions = len(images) * self.config.regions.proposals
        shared = self.head.region(features[0].new_empty(regions, self.head.channels, SIDE, SIDE))
        self.head.cls(shared)
        self.head.box(shared)

    def convolutions(self) -> list[tuple[nn.Module, str]]:
        """Backbone and pyramid, and the first stage; the number of regions changes with every batch."""
        return [(self, "features"), (self.head.rpn, "forward")]
