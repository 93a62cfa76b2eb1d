"""A DETR's memory on the grid of another's: levels of the nearest stride, resampled where they have other cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.structures import Size


def on_grid(cells: Tensor, shapes: Sequence[Size], wanted: Sequence[Size], levels: Sequence[int]) -> Tensor:
    """[B, K, C], cells of levels of `shapes` -> [B, K', C], cells of levels of the `wanted` shapes, (height, width).

    `levels` says of each wanted level which of the given ones it is made of. One of the same shape is taken as it is;
    any other is interpolated between its cells' centres (bilinear, the corners of the maps on each other), so both must
    be of one image. The very same tensor comes back where nothing differs.
    """
    if list(shapes) == list(wanted) and list(levels) == list(range(len(shapes))):
        return cells
    maps = torch.split(cells, [height * width for height, width in shapes], dim=1)
    return torch.cat(
        [_resampled(maps[level], shapes[level], size) for level, size in zip(levels, wanted, strict=True)], dim=1
    )


def _resampled(cells: Tensor, shape: Size, wanted: Size) -> Tensor:
    if shape == wanted:
        return cells
    image = cells.transpose(1, 2).reshape(len(cells), -1, *shape)
    return F.interpolate(image, size=wanted, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
