"""The convolutions of a tower: one that all levels share, or one of each level's own, and YOLOX nano's in two steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.spec.backbones.batch_norm import BatchNorm
from crosskd.spec.config import HeadConfig


class DepthwiseConv(nn.Module):
    """3 x 3 cells channel by channel, norm, SiLU; then a 1 x 1 convolution and norm: the tower applies SiLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: BatchNorm, *, bias: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(in_channels, norm.eps, norm.momentum)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.pointwise_norm = nn.BatchNorm2d(out_channels, norm.eps, norm.momentum)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.depthwise_norm(self.depthwise(x)))
        out: Tensor = self.pointwise_norm(self.pointwise(x))
        return out


def tower_conv(in_channels: int, config: HeadConfig, norm: BatchNorm, *, own_of: int = 0) -> nn.Module:
    """The convolution of one place in a tower; `own_of`: so many levels have each its own, 0: they share it."""
    if own_of:
        return nn.ModuleList(tower_conv(in_channels, config, norm) for _ in range(own_of))
    made: nn.Module
    if config.depthwise:
        made = DepthwiseConv(in_channels, config.channels, norm, bias=config.tower_bias)
    else:
        made = nn.Conv2d(in_channels, config.channels, kernel_size=3, padding=1, bias=config.tower_bias)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return made


def best_class(score: Tensor, slack: float = 0.0) -> Tensor:
    """[..., K] bool: an anchor's best class, of equal ones the first; with `slack` all within so much of its score."""
    if slack:
        return score >= score.amax(dim=-1, keepdim=True) - slack
    return torch.arange(score.shape[-1], device=score.device) == score.argmax(dim=-1, keepdim=True)
