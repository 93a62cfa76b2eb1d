"""Channels-last memory: maps and weights with their channels innermost, as matrix units want them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Input channels from which oneDNN's kernel is sound: what one of its blocks holds, 16 with AVX-512 and 8 with AVX2.
_BLOCK = 16


def to_channels_last(trainee: nn.Module, device: torch.device) -> None:
    """Lay out `trainee` on `device` with channels last. Its maps follow: a convolution takes its weight's layout.

    Names, values and shapes stay as they are, so weights and checkpoints fit either layout.
    """
    trainee.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        _spare_strides(trainee)


def _spare_strides(trainee: nn.Module) -> None:
    """Let narrow strided 1 x 1 convolutions pick their pixels first and then convolve without a stride.

    The same result by another way. In oneDNN the gradient of such a weight, channels last and with fewer input
    channels than a block, is written beside its buffer: wrong values, or the end of the process
    (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """
    for module in trainee.modules():
        if isinstance(module, nn.Conv2d) and _is_strided_point(module) and module.in_channels < _BLOCK:
            module.register_forward_pre_hook(partial(_pick, stride=module.stride))
            module.stride = (1, 1)


def _is_strided_point(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.stride != (1, 1)


def _pick(_: nn.Module, inputs: tuple[Any, ...], *, stride: tuple[int, ...]) -> tuple[Tensor]:
    """[N, C, H, W] -> [N, C, H / stride, W / stride], rounded up: the pixels that the convolution reads."""
    x: Tensor = inputs[0]
    return (x[:, :, :: stride[0], :: stride[1]],)
