"""Layers of the backbones and necks of RTMDet (arXiv 2212.07784) and YOLOX (2107.08430): cross-stage partial ones.

Attributes are named as in MMDetection's checkpoints, so tensors need no other names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.spec.backbones.batch_norm import TORCH_NORM, YOLOX_NORM, BatchNorm

KERNEL = 5  # of CSPNeXt's depthwise convolutions
POOLS = (5, 9, 13)  # cells, of the spatial pyramid pooling


@dataclass(frozen=True)
class Style:
    """What all layers of a model have in common."""

    block: Literal["cspnext", "darknet"] = "cspnext"
    norm: BatchNorm = TORCH_NORM
    depthwise: bool = False  # darknet: its 3 x 3 convolutions, channel by channel


CSPNEXT = Style()


def darknet(*, depthwise: bool) -> Style:
    """YOLOX's style."""
    return Style("darknet", YOLOX_NORM, depthwise)


class ConvNormAct(nn.Module):
    """Convolution, batch norm, SiLU: [N, C, H, W] -> [N, C', H / stride, W / stride], rounded up."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: BatchNorm = CSPNEXT.norm,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels, norm.eps, norm.momentum)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.bn(self.conv(x)))


class DepthwiseSeparable(nn.Module):
    """Each channel for itself, then all of each cell."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, norm: BatchNorm = CSPNEXT.norm
    ) -> None:
        super().__init__()
        self.depthwise_conv = ConvNormAct(
            in_channels, in_channels, kernel, stride=stride, groups=in_channels, norm=norm
        )
        self.pointwise_conv = ConvNormAct(in_channels, out_channels, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return out


def conv3x3(in_channels: int, out_channels: int, style: Style, *, stride: int = 1) -> nn.Module:
    """A convolution of 3 x 3 cells with norm and activation, as the style has it."""
    kind = DepthwiseSeparable if style.depthwise else ConvNormAct
    return kind(in_channels, out_channels, 3, stride=stride, norm=style.norm)


class Block(nn.Module):
    """CSPNeXt's or CSPDarknet's block, [N, C, H, W] -> the same shape; with `identity` its input is added."""

    def __init__(self, channels: int, style: Style, *, identity: bool) -> None:
        super().__init__()
        self.conv1: nn.Module
        self.conv2: nn.Module
        if style.block == "cspnext":
            self.conv1 = ConvNormAct(channels, channels, 3, norm=style.norm)
            self.conv2 = DepthwiseSeparable(channels, channels, KERNEL, norm=style.norm)
        else:
            self.conv1 = ConvNormAct(channels, channels, 1, norm=style.norm)
            self.conv2 = conv3x3(channels, channels, style)
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
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        *,
        identity: bool,
        attention: bool = False,
        style: Style = CSPNEXT,
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.main_conv = ConvNormAct(in_channels, half, 1, norm=style.norm)
        self.short_conv = ConvNormAct(in_channels, half, 1, norm=style.norm)
        self.final_conv = ConvNormAct(2 * half, out_channels, 1, norm=style.norm)
        self.blocks = nn.Sequential(*(Block(half, style, identity=identity) for _ in range(blocks)))
        self.attention = ChannelAttention(2 * half) if attention else None

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), dim=1)
        out: Tensor = self.final_conv(joined if self.attention is None else self.attention(joined))
        return out


class SpatialPyramidPooling(nn.Module):
    """The largest value around each cell, in ever wider windows: [N, C, H, W] -> the same shape."""

    def __init__(self, channels: int, norm: BatchNorm = CSPNEXT.norm) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = ConvNormAct(channels, half, 1, norm=norm)
        self.conv2 = ConvNormAct(half * (len(POOLS) + 1), channels, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in POOLS]
        out: Tensor = self.conv2(torch.cat([x, *pooled], dim=1))
        return out
