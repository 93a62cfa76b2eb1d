"""Boxes as numbers relative to a point (four distances) or to an anchor (four deltas)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from crosskd.boxes.ops import filled

LARGEST_RATIO = math.log(1000 / 16)  # of a decoded box's sides to its anchor's, as a logarithm, either way


def decode_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Points [..., 2] and distances to the left, top, right and bottom side [..., 4], in one unit -> boxes [..., 4].

    The box code of FCOS (arXiv 1904.01355).
    """
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


def encode_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """The inverse of `decode_distances`; negative where a point lies outside its box."""
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def expected_bin(logits: Tensor, bins: Tensor) -> Tensor:
    """Mean of the distribution over bins that `logits` [..., R + 1] describe -> [...] (arXiv 2006.04388, eq. 4)."""
    return (logits.softmax(dim=-1) * bins).sum(dim=-1)


def encode_deltas(anchors: Tensor, boxes: Tensor, stds: Sequence[float]) -> Tensor:
    """Boxes [..., 4] relative to anchors [..., 4] of some extent: (dx, dy, dw, dh) / `stds` (arXiv 1311.2524).

    dx and dy are the centre's way in widths and heights of the anchor, dw and dh the logarithms of the sides' ratios.
    """
    centre, extent = _middle(anchors)
    box_centre, box_extent = _middle(boxes)
    deltas = torch.cat(((box_centre - centre) / extent, (box_extent / extent).log()), dim=-1)
    return deltas / filled(stds, deltas)


def decode_deltas(anchors: Tensor, deltas: Tensor, stds: Sequence[float]) -> Tensor:
    """The inverse of `encode_deltas`; a side is at most 62.5 times the anchor's, and at least its 62.5th part."""
    deltas = deltas * filled(stds, deltas)
    centre, extent = _middle(anchors)
    centre = centre + deltas[..., :2] * extent
    half = extent * deltas[..., 2:].clamp(-LARGEST_RATIO, LARGEST_RATIO).exp() / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def _middle(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and (width, height), [..., 4] -> [..., 2] each."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """1 at a box's centre, 0 on its sides, for points in it [..., 2], boxes [..., 4] -> [...] (1904.01355, eq. 3)."""
    distances = encode_distances(points, boxes)
    across, down = distances[..., 0::2], distances[..., 1::2]
    ratios = (across.amin(-1) / across.amax(-1)) * (down.amin(-1) / down.amax(-1))
    return ratios.clamp(min=0).sqrt()
