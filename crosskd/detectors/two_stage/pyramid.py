"""Faster R-CNN's pyramid: torchvision's FPN (arXiv 1612.03144) from C2 on, with a pooled level on top."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from crosskd.backbones.staged import require_values
from crosskd.spec.config import ModelConfig


class RegionFPN(FeaturePyramidNetwork):  # type: ignore[misc]  # torchvision has no types
    """[C2, C3, C4, C5] -> [P2, P3, P4, P5, P6], each [N, channels, H_l, W_l]; P6 is every other cell of P5.

    Of a backbone's two coarsest maps it makes three.

    Attributes are named as in torchvision's checkpoints. The second version (arXiv 2111.11429) has batch norm behind
    every convolution.
    """

    def __init__(self, in_channels: Sequence[int], config: ModelConfig) -> None:
        assert config.regions is not None
        self.normed = config.regions.version == "v2"
        norm = nn.BatchNorm2d if self.normed else None
        super().__init__(list(in_channels), config.neck.channels, LastLevelMaxPool(), norm_layer=norm)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        if self.normed:
            require_values(self, features[-1], "C5")
        maps = super().forward(OrderedDict((str(level), x) for level, x in enumerate(features)))
        return list(maps.values())
