"""The necks of RTMDet (arXiv 2212.07784) and YOLOX (2107.08430): path aggregation (1803.01534) by CSP layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.backbones.csp import CSPNEXT, ConvNormAct, CSPLayer, conv3x3, darknet
from crosskd.backbones.staged import require_values
from crosskd.spec.config import NeckConfig

LEVELS = 3  # C3, C4, C5


class PAFPN(nn.Module):
    """[C2, C3, C4, C5] -> [P3, P4, P5], each [N, channels, H_l, W_l].

    From the top down each map is reduced, laid beside the one below and mixed with it; then from the bottom up.
    Attributes are named as in MMDetection's checkpoints.
    """

    def __init__(self, in_channels: Sequence[int], config: NeckConfig, levels: int) -> None:
        super().__init__()
        assert levels == LEVELS  # the configuration sees to it
        channels = list(in_channels[-LEVELS:])
        pairs = list(pairwise(channels))  # (C3, C4), (C4, C5)
        downward = pairs[::-1]
        style, kernel = (CSPNEXT, 3) if config.kind == "pafpn" else (darknet(depthwise=config.depthwise), 1)

        def mixed(low: int, out_channels: int) -> CSPLayer:
            return CSPLayer(2 * low, out_channels, config.blocks, identity=False, style=style)

        self.reduce_layers = nn.ModuleList(ConvNormAct(high, low, 1, norm=style.norm) for low, high in downward)
        self.top_down_blocks = nn.ModuleList(mixed(low, low) for low, _ in downward)
        self.downsamples = nn.ModuleList(conv3x3(low, low, style, stride=2) for low, _ in pairs)
        self.bottom_up_blocks = nn.ModuleList(mixed(low, high) for low, high in pairs)
        self.out_convs = nn.ModuleList(
            ConvNormAct(width, config.channels, kernel, norm=style.norm) for width in channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = list(features[-LEVELS:])
        require_values(self, maps[-1], "C5")
        for i, (reduce, block) in enumerate(zip(self.reduce_layers, self.top_down_blocks, strict=True)):
            level = LEVELS - 1 - i
            below = maps[level - 1]
            maps[level] = reduce(maps[level])  # also what the way up goes on with
            raised = F.interpolate(maps[level], size=below.shape[-2:], mode="nearest")
            maps[level - 1] = block(torch.cat((raised, below), dim=1))
        for level, (down, block) in enumerate(zip(self.downsamples, self.bottom_up_blocks, strict=True)):
            maps[level + 1] = block(torch.cat((down(maps[level]), maps[level + 1]), dim=1))
        return [conv(x) for conv, x in zip(self.out_convs, maps, strict=True)]
