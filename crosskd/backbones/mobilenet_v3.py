"""MobileNetV3 (arXiv 1905.02244) as a feature extractor: torchvision's blocks and parameter names."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import mobilenetv3

from crosskd.backbones import pretrained
from crosskd.backbones.staged import StagedBackbone
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig

ENDS = (4, 7, 13, 17)  # C2..C5 are behind the modules before these places in `features`
STAGES = (2, 4, 7, 13, 16, 17)  # the stem, and the stages, end before these: as torchvision's detectors count them
COARSEST = (14, 17)  # the first and the last map at stride 32


class MobileNetV3(StagedBackbone):
    """images [N, 3, H, W] -> [C2, C3, C4, C5]; see `StagedBackbone`. Stem: the first convolution and the block behind
    it; stages: the blocks from each one that strides on; the fifth is the last 1 x 1 convolution.

    C5 has the 960 channels of that convolution.
    """

    unused = ("classifier.",)

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        self.features: nn.Sequential = mobilenetv3.mobilenet_v3_large(weights=None).features
        self.ends: tuple[int, ...] = ENDS
        if load:
            pretrained.load(self, config, unused=self.unused)
        self.freeze()

    def give_coarsest(self) -> None:
        """From now on give the two maps alone that torchvision's Faster R-CNN reads: behind the first block at stride
        32, and C5."""
        self.ends, self.channels = COARSEST, registry.BACKBONES[self.name].coarsest

    def stages(self) -> list[list[nn.Module]]:
        begins = (0, *STAGES)
        return [list(self.features[begin:end]) for begin, end in zip(begins, STAGES, strict=False)]

    def forward(self, images: Tensor) -> list[Tensor]:
        self.require_statistics(images)
        maps, x = [], images
        for place, block in enumerate(self.features, start=1):
            x = block(x)
            if place in self.ends:
                maps.append(x)
        return maps
