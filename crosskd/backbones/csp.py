"""Layers of RTMDet's backbone and neck (arXiv 2212.07784): cross-stage partial ones with large depthwise kernels.

Attributes are named as in MMDetection's checkpoints, so tensors need no other names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 5  # of the depthwise convolutions
POOLS = (5, 9, 13)  # cells, of the spatial pyramid pooling


class ConvNormAct(nn.Module):
    """Convolution, batch norm, SiLU: [N, C, H, W] -> [N, C', H / stride, W / stride], rounded up."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.bn(self.conv(x)))


class DepthwiseSeparable(nn.Module):
    """Each channel for itself, then all of each cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise_conv = ConvNormAct(channels, channels, KERNEL, groups=channels)
        self.pointwise_conv = ConvNormAct(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return out


class Block(nn.Module):
    """CSPNeXt's block, [N, C, H, W] -> the same shape; with `identity` its input is added."""

    def __init__(self, channels: int, *, identity: bool) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3)
        self.conv2 = DepthwiseSeparable(channels)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x))
        return out + x if self.identity else out


class ChannelAttention(nn.Module):
    """Each channel times a factor in 0..1, which the mean of all channels over the map decides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        factor: Tensor = F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))
        return x * factor


class CSPLayer(nn.Module):
    """Half of the channels through `blocks` blocks, half past them, both joined: [N, C, H, W] -> [N, C', H, W]."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, *, identity: bool, attention: bool = False
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.main_conv = ConvNormAct(in_channels, half, 1)
        self.short_conv = ConvNormAct(in_channels, half, 1)
        self.final_conv = ConvNormAct(2 * half, out_channels, 1)
        self.blocks = nn.Sequential(*(Block(half, identity=identity) for _ in range(blocks)))
        self.attention = ChannelAttention(2 * half) if attention else None

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), dim=1)
        out: Tensor = self.final_conv(joined if self.attention is None else self.attention(joined))
        return out


class SpatialPyramidPooling(nn.Module):
    """The largest value around each cell, in ever wider windows: [N, C, H, W] -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = ConvNormAct(channels, half, 1)
        self.conv2 = ConvNormAct(half * (len(POOLS) + 1), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in POOLS]
        out: Tensor = self.conv2(torch.cat([x, *pooled], dim=1))
        return out
