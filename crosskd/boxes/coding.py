"""Boxes as four distances from a point to the left, top, right and bottom side (FCOS, arXiv 1904.01355)."""

from __future__ import annotations

import torch
from torch import Tensor


def decode_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Points [..., 2] and distances [..., 4] in one unit -> boxes [..., 4]."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


def encode_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """The inverse of `decode_distances`; negative where a point lies outside its box."""
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def expected_bin(logits: Tensor, bins: Tensor) -> Tensor:
    """Mean of the distribution over bins that `logits` [..., R + 1] describe -> [...] (arXiv 2006.04388, eq. 4)."""
    return (logits.softmax(dim=-1) * bins).sum(dim=-1)
