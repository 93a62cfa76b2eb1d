"""Overlaps of boxes and what is made of them. Boxes are (x1, y1, x2, y2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from crosskd.structures import Size

EPSILON = 1e-6  # the least union: two empty boxes overlap by 0, not by 0 / 0


def filled(values: Sequence[float], like: Tensor) -> Tensor:
    """A tensor of a few numbers beside `like`, filled there: a GPU waits for what is copied from the host."""
    return torch.stack([like.new_full((), value) for value in values])


def _parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union of boxes that stand at the same place (or broadcast): [..., 4] -> [...]."""
    overlap = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = area(a) + area(b) - intersection
    return intersection, torch.max(union, union.new_full((), EPSILON))


def area(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...], in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, element by element, 0..1: [..., 4] -> [...]."""
    intersection, union = _parts(a, b)
    return intersection / union


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU, -1..1 (arXiv 1902.09630), element by element: [..., 4] -> [...]."""
    intersection, union = _parts(a, b)
    hull = (torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])).clamp(min=0)
    enclosing = hull[..., 0] * hull[..., 1]
    enclosing = torch.max(enclosing, enclosing.new_full((), EPSILON))
    return intersection / union - (enclosing - union) / enclosing


def overlap_loss(boxes: Tensor, target: Tensor, how: Literal["giou", "iou"]) -> Tensor:
    """1 - GIoU, or -log IoU (arXiv 1608.01471), element by element: [..., 4] -> [...]."""
    if how == "giou":
        return 1 - giou(boxes, target)
    return -iou(boxes, target).clamp(min=EPSILON).log()


def clip(boxes: Tensor, size: Size) -> Tensor:
    """[..., 4] with every corner inside an image of (height, width) `size`."""
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)
