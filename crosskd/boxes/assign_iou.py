"""Which anchor learns which box: by overlap alone, as Faster R-CNN and RetinaNet do (arXiv 1708.02002)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from crosskd.boxes.anchors import Anchors, valid_sizes
from crosskd.boxes.assign import from_winners, inside
from crosskd.boxes.pieces import pieces
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
            owner, ignored = _owners(boxes, everything[valid])
            winner[valid] = torch.where(owner >= 0, owner + start, background)
            weight[valid] = (~ignored).to(weight.dtype)
        winners.append(winner)
        weights.append(weight)
        start += len(boxes)
    return from_winners(torch.stack(winners), torch.stack(weights), anchors.level_sizes, targets, classes)


def _owners(boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [G, 4], anchors [A, 4] -> each anchor's box [A], -1 for none, and whether it learns nothing at all [A].

    Their IoU is made a piece of the anchors at a time, and again, for the boxes that have their most there, where
    there are several pieces.
    """
    cuts = pieces(len(anchors), len(boxes))
    best, box, most = [], [], []
    for cut in cuts:
        overlap = box_iou(boxes, anchors[cut])  # [G, anchors of the piece]
        values, index = overlap.max(dim=0)
        best.append(values)
        box.append(index)
        most.append(overlap.amax(dim=1))
    highest, owner = torch.cat(best), torch.cat(box)
    owner = torch.where(highest >= POSITIVE, owner, -1)
    largest = torch.stack(most).amax(dim=0)  # [G]
    rows = torch.arange(len(boxes), device=boxes.device)
    for cut, there in zip(cuts, most, strict=True):
        if len(cuts) > 1:
            rows = (there == largest).nonzero()[:, 0]
            overlap = box_iou(boxes[rows], anchors[cut])
        rescued = _rescued(overlap, largest[rows, None], rows)
        owner[cut] = torch.where(rescued >= 0, rescued, owner[cut])
    return owner, (owner < 0) & (highest >= NEGATIVE)


def _rescued(overlap: Tensor, most: Tensor, rows: Tensor) -> Tensor:
    """IoU [R, A] of the boxes `rows` [R], and their most [R, 1] -> the last box that each anchor overlaps so, or -1."""
    if len(rows) == 0:
        return rows.new_full(overlap.shape[1:], -1)
    return torch.where((overlap == most) & (most > 0), rows[:, None], -1).amax(dim=0)
