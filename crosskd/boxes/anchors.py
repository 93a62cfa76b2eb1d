"""Where a head's cells stand in the image: one square anchor a cell, centred on the cell's upper left corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosskd.structures import Size


@dataclass(frozen=True)
class Anchors:
    """The anchors of all levels, one level after the other, row by row within a level."""

    centres: Tensor  # [A, 2] x, y in pixels
    strides: Tensor  # [A] pixels from one cell to the next
    sides: Tensor  # [A] pixels
    level_sizes: list[int]  # sums to A

    def boxes(self) -> Tensor:
        """[A, 4] in pixels; they may reach over the image."""
        half = self.sides[:, None] / 2
        return torch.cat((self.centres - half, self.centres + half), dim=1)


def square_anchors(
    sizes: Sequence[Size],
    strides: Sequence[int],
    scale: float,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Anchors:
    """Anchors of side `scale` * stride for feature maps of `sizes` (height, width in cells)."""
    centres, lengths = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y = torch.arange(height, device=device, dtype=dtype) * stride
        x = torch.arange(width, device=device, dtype=dtype) * stride
        centres.append(torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1).view(-1, 2))
        lengths.append(torch.full((height * width,), float(stride), device=device, dtype=dtype))
    stride_of = torch.cat(lengths)
    return Anchors(torch.cat(centres), stride_of, stride_of * scale, [len(c) for c in centres])


def valid_sizes(sizes: Sequence[Size], strides: Sequence[int], padded: Size) -> list[Size]:
    """How many rows and columns of each level lie in an image of `padded` pixels; the others are batch padding."""
    return [
        (min(-(-padded[0] // stride), height), min(-(-padded[1] // stride), width))
        for (height, width), stride in zip(sizes, strides, strict=True)
    ]
