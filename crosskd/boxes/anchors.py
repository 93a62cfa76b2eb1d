"""Where a head's anchors stand in the image: some anchors a cell, or none but the cell's own point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from crosskd.boxes.ops import filled
from crosskd.structures import Size

KEPT = 8  # grids that are kept once made, of the last batches' shapes: 4 MB each for RetinaNet at 800 x 1333
Shape = tuple[float, float]  # width, height


@dataclass(frozen=True)
class Anchors:
    """The anchors of all levels, level after level, row by row within a level, those of one cell together."""

    centres: Tensor  # [A, 2] x, y in pixels
    strides: Tensor  # [A] pixels from one cell to the next
    extents: Tensor  # [A, 2] width, height in pixels; 0 where anchors are points
    level_sizes: list[int]  # sums to A; empty in a selection

    def boxes(self) -> Tensor:
        """[A, 4] in pixels; they may reach over the image."""
        half = self.extents / 2
        return torch.cat((self.centres - half, self.centres + half), dim=1)

    def take(self, index: Tensor | slice) -> Anchors:
        """The anchors at `index` [D], whatever their levels."""
        return Anchors(self.centres[index], self.strides[index], self.extents[index], [])


def square_anchors(sizes: Sequence[Size], strides: Sequence[int], scale: float, like: Tensor) -> Anchors:
    """One anchor a cell, of side `scale` * stride, centred on the cell's upper left corner."""
    return _on_grid(sizes, strides, [[(scale * stride, scale * stride)] for stride in strides], 0.0, like)


def octave_anchors(
    sizes: Sequence[Size],
    strides: Sequence[int],
    scale: float,
    octaves: int,
    ratios: Sequence[float],
    like: Tensor,
    *,
    whole_pixels: bool = False,
    spread: bool = False,
) -> Anchors:
    """RetinaNet's (arXiv 1708.02002): `octaves` sizes of each of `ratios` (height over width) a cell.

    Ratio after ratio, each from the smallest size, `scale` * stride, up. `whole_pixels` cuts the sizes and rounds
    the corners to pixels, as torchvision does; `spread`: see `_steps`.
    """
    sides = [[scale * stride * 2 ** (i / octaves) for i in range(octaves)] for stride in strides]
    return sized_anchors(sizes, strides, sides, ratios, like, whole_pixels=whole_pixels, spread=spread)


def sized_anchors(
    sizes: Sequence[Size],
    strides: Sequence[int],
    sides_of: Sequence[Sequence[float]],
    ratios: Sequence[float],
    like: Tensor,
    *,
    whole_pixels: bool = False,
    spread: bool = False,
) -> Anchors:
    """As `octave_anchors`, of the sizes `sides_of` each level, in pixels."""
    shapes = []
    for sides in sides_of:
        if whole_pixels:
            sides = [float(int(side)) for side in sides]
        level = [(side / math.sqrt(ratio), side * math.sqrt(ratio)) for ratio in ratios for side in sides]
        if whole_pixels:
            level = [(2.0 * round(width / 2), 2.0 * round(height / 2)) for width, height in level]
        shapes.append(level)
    return _on_grid(sizes, strides, shapes, 0.0, like, spread=spread)


def cell_points(
    sizes: Sequence[Size], strides: Sequence[int], offset: float, like: Tensor, *, spread: bool = False
) -> Anchors:
    """One point a cell, `offset` strides right of and below its upper left corner (FCOS, arXiv 1904.01355).

    `spread`: see `_steps`.
    """
    return _on_grid(sizes, strides, [[(0.0, 0.0)] for _ in strides], offset, like, spread=spread)


def _on_grid(
    sizes: Sequence[Size],
    strides: Sequence[int],
    shapes: Sequence[Sequence[Shape]],
    offset: float,
    like: Tensor,
    *,
    spread: bool = False,
) -> Anchors:
    """Anchors of `shapes`, a list per level, at every cell; device and dtype are those of `like`.

    Made once for all that ask for the same: both models of a pair, for their assignment and for their losses.
    """
    fixed = tuple(tuple(level) for level in shapes)
    if type(like) is not Tensor:  # a graph is being traced: its sizes are no numbers
        return _made(sizes, strides, fixed, offset, spread, like.device, like.dtype)
    return _kept(tuple(sizes), tuple(strides), fixed, offset, spread, like.device, like.dtype)


def _made(
    sizes: Sequence[Size],
    strides: Sequence[int],
    shapes: tuple[tuple[Shape, ...], ...],
    offset: float,
    spread: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> Anchors:
    centres, lengths, extents = [], [], []
    steps = _steps(sizes, strides, spread=spread)
    for (height, width), (down, right), stride, level in zip(sizes, steps, strides, shapes, strict=True):
        y = (torch.arange(height, device=device, dtype=dtype) + offset) * down
        x = (torch.arange(width, device=device, dtype=dtype) + offset) * right
        cells = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1).view(-1, 1, 2)
        centres.append(cells.expand(-1, len(level), 2).reshape(-1, 2))
        shape = torch.stack([filled(sides, y) for sides in level])
        extents.append(shape.repeat(height * width, 1))
        lengths.append(torch.full((extents[-1].shape[0],), float(stride), device=device, dtype=dtype))
    return Anchors(torch.cat(centres), torch.cat(lengths), torch.cat(extents), [c.shape[0] for c in centres])


@lru_cache(maxsize=KEPT)
def _kept(*of: Any) -> Anchors:
    with torch.inference_mode(mode=False), torch.no_grad():  # for whoever wants them next, in training too
        return _made(*of)


def _steps(sizes: Sequence[Size], strides: Sequence[int], *, spread: bool) -> list[tuple[int, int]]:
    """Pixels from one cell to the next, down and to the right, per level: the stride.

    `spread` divides the padded image by the cells instead, as torchvision does: less than the stride where the last
    cell reaches over the image, e.g. 114 at stride 128 for 800 pixels. The image is as large as P3, so images must be
    padded to a multiple of P3's stride.
    """
    if not spread:
        return [(stride, stride) for stride in strides]
    (height, width), stride = sizes[0], strides[0]
    return [(height * stride // rows, width * stride // columns) for rows, columns in sizes]


def valid_sizes(sizes: Sequence[Size], strides: Sequence[int], padded: Size) -> list[Size]:
    """How many rows and columns of each level lie in an image of `padded` pixels; the others are batch padding."""
    return [
        (min(-(-padded[0] // stride), height), min(-(-padded[1] // stride), width))
        for (height, width), stride in zip(sizes, strides, strict=True)
    ]
