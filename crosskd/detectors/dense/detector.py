"""A one-stage detector: backbone, feature pyramid, dense head. For the head read `head.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.dense.recall import RecalledPass, keep
from crosskd.detectors.dense.view import DensePass
from crosskd.detectors.detector import Detector
from crosskd.detectors.fpn import FPN
from crosskd.detectors.pafpn import PAFPN
from crosskd.detectors.view import Kept
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig, PostprocessConfig
from crosskd.spec.distill.needs import Need, Side
from crosskd.structures import Detections, Size, Targets

NECKS = {"fpn": FPN, "pafpn": PAFPN, "yolox_pafpn": PAFPN}


class DenseDetector(Detector):
    """It predicts first and assigns then: some assignments look at what is predicted."""

    head: DenseHead

    def __init__(self, config: ModelConfig, num_classes: int, *, pretrained: bool = True) -> None:
        super().__init__(config, num_classes, pretrained=pretrained)
        head = registry.load(registry.lookup(registry.DETECTORS, config.detector, "detector").target)
        self.neck = NECKS[config.neck.kind](self.backbone.channels, config.neck, len(config.strides))
        self.head = head(config, num_classes)

    def begin_epoch(self, index: int, epochs: int) -> None:
        self.head.begin_epoch(index, epochs)

    @torch.no_grad()
    def detect(
        self, images: Tensor, sizes: Sequence[Size], postprocess: PostprocessConfig | None = None
    ) -> list[Detections]:
        return self.head.detect(self.head(self.features(images)), sizes, postprocess or self.config.postprocess)

    @torch.no_grad()
    def found(self, made: DensePass, sizes: Sequence[Size], postprocess: PostprocessConfig) -> list[Detections]:
        return self.head.detect(made.predictions, sizes, postprocess)

    def view(
        self, side: Side, features: list[Tensor], targets: Targets, needs: Sequence[Need], assigned: Any = None
    ) -> DensePass:
        return DensePass(side, self.head, features, targets, needs, assigned)

    def kept(self, made: DensePass) -> Kept:
        return keep(made)

    def recalled(self, kept: Kept, whole: Size, targets: Targets, needs: Sequence[Need]) -> DensePass:  # noqa: ARG002
        return RecalledPass(self.head, kept, targets, needs)

    def network(self, images: Tensor) -> None:
        self.head(self.features(images))

    def convolutions(self) -> list[tuple[nn.Module, str]]:
        """Backbone and neck, and both sides of the head's cut."""
        return [(self, "features"), (self.head, "front"), (self.head, "back")]

    def recomputed(self) -> list[tuple[nn.Module, str]]:
        """Also blocks of the neck, where there are any, both sides of each tower's cut, and the prediction layers."""
        blocks = [block for each in self.neck.children() for block in each.children() if any(block.children())]
        return [*super().recomputed(), *((block, "forward") for block in blocks), *self.head.recomputed()]
