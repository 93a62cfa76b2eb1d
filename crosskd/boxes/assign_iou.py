"""Which anchor learns which box: by overlap alone, as Faster R-CNN and RetinaNet do (arXiv 1708.02002)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from crosskd.boxes.anchors import Anchors
from crosskd.boxes.assign import from_winners, inside, own_places
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
    per_cell = anchors.level_sizes[0] // (sizes[0][0] * sizes[0][1])
    everything, table = anchors.boxes(), targets.table
    valid = inside(targets, sizes, strides, per_cell)
    owner, ignored = _owners(table.boxes, everything, valid)
    weights = (valid & ~ignored).to(everything.dtype)
    winner = own_places(owner, table.boxes.shape[1])
    return from_winners(winner, weights, anchors.level_sizes, targets, classes)


def _owners(boxes: Tensor, anchors: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [N, G, 4], anchors [A, 4] -> each anchor's box [N, A], -1 for none, and whether it learns nothing at all.

    Their IoU is made a piece of the boxes at a time. A place without a box overlaps nothing, and nor does an anchor
    that is not `valid` [N, A].
    """
    images, count = valid.shape
    highest = boxes.new_zeros(images, count)
    owner = torch.full((images, count), -1, dtype=torch.int32, device=boxes.device)
    rescuer = owner
    numbers = torch.arange(boxes.shape[1], dtype=torch.int32, device=boxes.device)[:, None]
    for cut in pieces(boxes.shape[1], images * count):
        overlap = box_iou(boxes[:, cut].flatten(0, 1), anchors).view(images, -1, count).mul_(valid[:, None])
        value, index = overlap.max(dim=1)
        owner = torch.where(value > highest, index.int() + cut.start, owner)
        highest = torch.maximum(highest, value)
        most = overlap.amax(dim=2, keepdim=True)
        rescued = torch.where((overlap == most) & (most > 0), numbers[cut], -1).amax(dim=1)
        rescuer = torch.maximum(rescuer, rescued)
    owner = torch.where(rescuer >= 0, rescuer, torch.where(highest >= POSITIVE, owner, -1))
    return owner.long(), (owner < 0) & (highest >= NEGATIVE)
