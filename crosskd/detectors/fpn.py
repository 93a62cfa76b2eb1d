"""Feature pyramid network (arXiv 1612.03144)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.losses import at_least_float32
from crosskd.spec.config import NeckConfig

LATERAL = 3  # C3, C4, C5


class FPN(nn.Module):
    """[C2, C3, C4, C5] -> [P3, P4, P5, ...], each [N, channels, H_l, W_l], `levels` of them.

    Levels above P5 come from the level below by a strided convolution; P6 also, as `config` says, from C5. Between
    P6 and P7 there can be a ReLU.
    """

    def __init__(self, in_channels: Sequence[int], config: NeckConfig, levels: int) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, kernel_size=1) for c in in_channels[-LATERAL:])
        self.output = nn.ModuleList(
            nn.Conv2d(
                in_channels[-1] if level == LATERAL and config.p6_from == "c5" else channels,
                channels,
                kernel_size=3,
                stride=1 if level < LATERAL else 2,
                padding=1,
            )
            for level in range(levels)
        )
        for conv in (*self.lateral, *self.output):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = [conv(c) for conv, c in zip(self.lateral, features[-LATERAL:], strict=True)]
        for level in range(LATERAL - 1, 0, -1):
            below = maps[level - 1]
            maps[level - 1] = below + F.interpolate(maps[level], size=below.shape[-2:], mode="nearest")
        pyramid = [conv(m) for conv, m in zip(self.output, maps, strict=False)]
        for level, conv in enumerate(self.output[LATERAL:]):
            below = pyramid[-1]
            if level == 0 and self.config.p6_from == "c5":
                below = features[-1]
            elif level > 0 and self.config.relu_before_p7:
                below = F.relu(below)  # not in place: the head reads P6
            pyramid.append(_strided(conv, below))
        return pyramid


def _strided(conv: nn.Module, x: Tensor) -> Tensor:
    """`conv` of `x`, in full precision where `x` has but one column.

    On the CPU oneDNN leaves the part of a bf16 weight gradient that meets nothing but padding as it finds the memory.
    """
    kind = x.device.type
    # The meta device, on which operations are counted, knows no autocast.
    half = kind != "meta" and torch.is_autocast_enabled(kind) and x.shape[-1] == 1
    with torch.autocast(kind, enabled=False) if half else contextlib.nullcontext():
        out: Tensor = conv(at_least_float32(x) if half else x)
    return out
