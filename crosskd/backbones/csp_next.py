"""CSPNeXt (arXiv 2212.07784), RTMDet's backbone, as a feature extractor: MMDetection's parameter names, any width."""

from __future__ import annotations

from torch import Tensor, nn

from crosskd.backbones import pretrained
from crosskd.backbones.csp import ConvNormAct, CSPLayer, SpatialPyramidPooling
from crosskd.backbones.staged import StagedBackbone
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig

STAGES = 4


class CSPNeXt(StagedBackbone):
    """images [N, 3, H, W] -> [C2, C3, C4, C5]; see `StagedBackbone`. Stem: three convolutions; stages: stage1..stage4.

    Each stage halves the map by a convolution; the last pools its neighbourhoods before its blocks, which then have no
    way past them.
    """

    unused = ("head.",)

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        entry = registry.BACKBONES[config.name]
        width = self.channels[0] // 2
        self.stem = nn.Sequential(
            ConvNormAct(3, width // 2, 3, stride=2),
            ConvNormAct(width // 2, width // 2, 3),
            ConvNormAct(width // 2, width, 3),
        )
        in_channels = width
        for stage, (channels, blocks) in enumerate(zip(self.channels, entry.layers, strict=True)):
            last = stage == STAGES - 1
            parts: list[nn.Module] = [ConvNormAct(in_channels, channels, 3, stride=2)]
            parts += [SpatialPyramidPooling(channels)] if last else []
            parts.append(CSPLayer(channels, channels, blocks, identity=not last, attention=True))
            self.add_module(f"stage{stage + 1}", nn.Sequential(*parts))
            in_channels = channels
        if load:
            pretrained.load(self, config, unused=self.unused)
        self.freeze()

    def stages(self) -> list[list[nn.Module]]:
        return [[self.stem], *([self.get_submodule(f"stage{i + 1}")] for i in range(STAGES))]

    def forward(self, images: Tensor) -> list[Tensor]:
        self.require_statistics(images)
        x, maps = self.stem(images), []
        for stage in range(STAGES):
            x = self.get_submodule(f"stage{stage + 1}")(x)
            maps.append(x)
        return maps
