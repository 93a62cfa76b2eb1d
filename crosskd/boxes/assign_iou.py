"""Which anchor learns which box: by overlap alone, as Faster R-CNN and RetinaNet do (arXiv 1708.02002)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from crosskd.boxes.anchors import Anchors, valid_sizes
from crosskd.boxes.assign import from_winners, inside
from crosskd.structures import Assignment, Size, Targets

POSITIVE = 0.5  # from this IoU on an anchor learns its box
NEGATIVE = 0.4  # below it is background; between the two it learns nothing


def max_iou(
    anchors: Anchors, sizes: Sequence[Size], strides: Sequence[int], targets: Targets, classes: int
) -> Assignment:
    """Every anchor learns the box that it overlaps most, if by `POSITIVE` at least.

    So that no box goes unlearnt, each also gets the anchors that overlap it most of all, however little that is
    (the last box wins an anchor that several want so); a box that no anchor overlaps gets none. Anchors between
    the thresholds and anchors in the batch padding have label weight 0.
    """
    total = len(anchors.centres)
    per_cell = anchors.level_sizes[0] // (sizes[0][0] * sizes[0][1])
    everything = anchors.boxes()
    winners, weights, start = [], [], 0
    background = sum(len(boxes) for boxes in targets.boxes)
    for boxes, padded in zip(targets.boxes, targets.padded, strict=True):
        valid = inside(sizes, valid_sizes(sizes, strides, padded), everything.device, per_cell)
        winner = torch.full((total,), background, dtype=torch.long, device=everything.device)
        weight = valid.to(everything.dtype)
        if len(boxes):
            owner, ignored = _owners(box_iou(boxes, everything[valid]))
            winner[valid] = torch.where(owner >= 0, owner + start, background)
            weight[valid] = (~ignored).to(weight.dtype)
        winners.append(winner)
        weights.append(weight)
        start += len(boxes)
    return from_winners(torch.stack(winners), torch.stack(weights), anchors.level_sizes, targets, classes)


def _owners(overlap: Tensor) -> tuple[Tensor, Tensor]:
    """IoU [G, A] -> the box of each anchor [A], -1 for none, and whether it learns nothing at all [A]."""
    best, box = overlap.max(dim=0)
    owner = torch.where(best >= POSITIVE, box, -1)
    most = overlap.amax(dim=1, keepdim=True)  # [G, 1]
    number = torch.arange(len(overlap), device=overlap.device)[:, None]
    rescued = torch.where((overlap == most) & (most > 0), number, -1).amax(dim=0)
    owner = torch.where(rescued >= 0, rescued, owner)
    return owner, (owner < 0) & (best >= NEGATIVE)
