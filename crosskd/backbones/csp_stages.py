"""What CSPNeXt and CSPDarknet have in common: a stem and four stages of a cross-stage partial layer each."""

from __future__ import annotations

from torch import Tensor, nn

from crosskd.backbones import pretrained
from crosskd.backbones.csp import CSPLayer, SpatialPyramidPooling, Style, conv3x3
from crosskd.backbones.staged import StagedBackbone
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig

STAGES = 4


class CSPBackbone(StagedBackbone):
    """images [N, 3, H, W] -> [C2, C3, C4, C5]; see `StagedBackbone`. Stem: `stem`; stages: stage1..stage4.

    Each stage halves the map by a convolution; the last pools its neighbourhoods before its blocks, which then have no
    way past them.
    """

    unused = ("head.",)
    stem: nn.Module

    def build(self, config: BackboneConfig, stem: nn.Module, style: Style, *, attention: bool, load: bool) -> None:
        """Make the stages behind the `stem`, whose channels are half of C2's."""
        self.stem = stem
        in_channels = self.channels[0] // 2
        layers = registry.BACKBONES[config.name].layers
        for stage, (channels, blocks) in enumerate(zip(self.channels, layers, strict=True)):
            last = stage == STAGES - 1
            parts: list[nn.Module] = [conv3x3(in_channels, channels, style, stride=2)]
            parts += [SpatialPyramidPooling(channels, style.norm)] if last else []
            parts.append(CSPLayer(channels, channels, blocks, identity=not last, attention=attention, style=style))
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
