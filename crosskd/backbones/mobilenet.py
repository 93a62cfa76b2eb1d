"""MobileNetV2 (arXiv 1801.04381) as a feature extractor: torchvision's blocks and parameter names, any width."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import mobilenetv2

from crosskd.backbones import pretrained
from crosskd.backbones.staged import StagedBackbone
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig

ENDS = (1, 4, 7, 14, 18)  # the stem and the four stages end before these places in `features`


class MobileNetV2(StagedBackbone):
    """images [N, 3, H, W] -> [C2, C3, C4, C5]; see `StagedBackbone`. Stem: the first convolution; stages: the blocks up
    to the last of each resolution.

    C5 has the 320 channels of the last block: the 1 x 1 convolution to 1280 behind it serves the classifier alone.
    """

    unused = ("classifier.", f"features.{ENDS[-1]}.")

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        default = registry.BACKBONES[config.name].width
        assert default is not None
        whole = mobilenetv2.MobileNetV2(width_mult=(config.width or default) / default)
        self.features: nn.Sequential = whole.features[: ENDS[-1]]
        if load:
            pretrained.load(self, config, unused=self.unused)
        self.freeze()

    def stages(self) -> list[list[nn.Module]]:
        begins = (0, *ENDS)
        return [list(self.features[begin:end]) for begin, end in zip(begins, ENDS, strict=False)]

    def forward(self, images: Tensor) -> list[Tensor]:
        self.require_statistics(images)
        maps, x = [], images
        for place, block in enumerate(self.features, start=1):
            x = block(x)
            if place in ENDS[1:]:
                maps.append(x)
        return maps
