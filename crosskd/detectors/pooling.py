"""Regions of a pyramid's maps, each from the level of its size, as maps of one size: RoIAlign (arXiv 1703.06870)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from crosskd.boxes.ops import area
from crosskd.losses import at_least_float32

SMALLEST = 14  # strides: regions leave the finest level from twice this side on, the next from four times, and so on
EPSILON = 1e-6


def pool_regions(
    features: Sequence[Tensor],
    boxes: Sequence[Tensor],
    strides: Sequence[int],
    *,
    side: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Each image's `boxes` [R_i, 4] -> their maps [R, C, side, side], in full precision."""
    whole = torch.cat(list(boxes))
    image = torch.cat([b.new_full((len(b),), i, dtype=torch.long) for i, b in enumerate(boxes)])
    level = level_of(area(whole).sqrt(), len(strides), strides[0])
    maps = [at_least_float32(source) for source in features]
    return pool(maps, whole, image, level, [1 / stride for stride in strides], side, sampling_ratio, aligned)


def level_of(side: Tensor, levels: int, finest: int) -> Tensor:
    """The one of `levels` on which a region lies by the root of its area in pixels (arXiv 1612.03144, eq. 1).

    [R] -> [R] long; 0 is the finest, whose stride is `finest`.
    """
    return ((side / (SMALLEST * finest)).log2() + EPSILON).floor().clamp(0, levels - 1).long()


def pool(
    maps: list[Tensor],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    scales: list[float],
    side: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The maps [R, C, side, side] of the regions `boxes` [R, 4] of `image` [R], from `maps` of `level` [R].

    `scales`: cells of a pixel, of each level.
    """
    regions = torch.cat((image[:, None].to(boxes.dtype), boxes), dim=1)  # [R, 5]
    parts, places = [], []
    for number, (source, scale) in enumerate(zip(maps, scales, strict=True)):
        rows = (level == number).nonzero()[:, 0]
        places.append(rows)
        parts.append(
            roi_align(source, regions[rows], side, spatial_scale=scale, sampling_ratio=sampling_ratio, aligned=aligned)
        )
    return torch.cat(parts)[torch.cat(places).argsort()]
