"""CSPDarknet, YOLOX's backbone (arXiv 2107.08430), as a feature extractor: MMDetection's parameter names, any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.backbones import pretrained
from crosskd.backbones.csp import ConvNormAct, CSPLayer, SpatialPyramidPooling, Style, conv3x3, darknet
from crosskd.backbones.staged import StagedBackbone
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig

STAGES = 4


class Focus(nn.Module):
    """Each 2 x 2 pixels become one cell of four times the channels, then a convolution: stride 2.

    The upper left pixels come first, then the lower left, the upper right and the lower right ones. Behind an odd
    side, which no padded image has by default, stands one more row or column of zeros.
    """

    def __init__(self, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        self.conv = ConvNormAct(4 * in_channels, out_channels, 3, norm=style.norm)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
        corners = [x[..., down::2, right::2] for right in (0, 1) for down in (0, 1)]
        out: Tensor = self.conv(torch.cat(corners, dim=1))
        return out


class CSPDarknet(StagedBackbone):
    """images [N, 3, H, W] -> [C2, C3, C4, C5]; see `StagedBackbone`. Stem: `Focus`; stages: stage1..stage4.

    As in CSPNeXt, each stage halves the map by a convolution; the last pools its neighbourhoods before its blocks,
    which then have no way past them.
    """

    unused = ("head.",)

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        entry = registry.BACKBONES[config.name]
        style = darknet(depthwise=entry.depthwise)
        in_channels = self.channels[0] // 2
        self.stem = Focus(3, in_channels, style)
        for stage, (channels, blocks) in enumerate(zip(self.channels, entry.layers, strict=True)):
            last = stage == STAGES - 1
            parts: list[nn.Module] = [conv3x3(in_channels, channels, style, stride=2)]
            parts += [SpatialPyramidPooling(channels, style.norm)] if last else []
            parts.append(CSPLayer(channels, channels, blocks, identity=not last, style=style))
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
