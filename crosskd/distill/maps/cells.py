"""Which cells of the pyramid's maps a term compares, one mask [N, 1, H_l, W_l] of bool per level."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from crosskd.boxes.anchors import Anchors
from crosskd.boxes.assign import inside
from crosskd.boxes.pieces import pieces
from crosskd.detectors.pooling import level_of
from crosskd.structures import Assignment, Size, Targets


def inside_boxes(targets: Targets, sizes: Sequence[Size], strides: Sequence[int]) -> list[Tensor]:
    """The cells within a box, its rim excluded, on every level. A cell stands where GFL's anchors have their centre,
    in the pixel at its upper left corner.
    """
    boxes, levels = targets.table.boxes, []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y, x = (torch.arange(n, device=boxes.device) * stride for n in (height, width))
        across = (x > boxes[..., :1]) & (x < boxes[..., 2:3])  # [N, G, W]
        down = (y > boxes[..., 1:2]) & (y < boxes[..., 3:])  # [N, G, H]
        levels.append(_rectangles(down, across))
    return levels


def boxes_by_size(targets: Targets, sizes: Sequence[Size], strides: Sequence[int]) -> list[Tensor]:
    """The cells of the boxes of a level's size, of each at least one; both ends are rounded down to whole cells.

    A box goes to the level that FPN (arXiv 1612.03144, eq. 1) sends a region of its size to: to the finest up to 28
    of its strides a side, to the next up to 56, and so on. (Its sides are one pixel longer there.)
    """
    table = targets.table
    boxes, levels = table.boxes, []
    side = (boxes[..., 2:] - boxes[..., :2] + 1).prod(-1).sqrt()
    of_level = level_of(side, len(strides), strides[0])  # [N, G]
    for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        ours = ((of_level == level) & table.there)[..., None]
        first, last = ((corner / stride).floor() for corner in (boxes[..., :2], boxes[..., 2:]))
        flat = (first == last).any(-1, keepdim=True)
        last = torch.where(flat, first + 1, last)
        y, x = (torch.arange(n, device=boxes.device) for n in (height, width))
        across = (x >= first[..., :1]) & (x < last[..., :1]) & ours
        down = (y >= first[..., 1:]) & (y < last[..., 1:])
        levels.append(_rectangles(down, across))
    return levels


def positive_cells(assignment: Assignment, sizes: Sequence[Size], classes: int) -> list[Tensor]:
    """The cells of which an anchor is positive."""
    return _by_cell(assignment.labels < classes, assignment.level_sizes, sizes)


@torch.no_grad()
def near_boxes(
    anchors: Anchors, targets: Targets, sizes: Sequence[Size], strides: Sequence[int], share: float
) -> list[Tensor]:
    """The cells of which an anchor overlaps a box by more than `share` of the best IoU that any anchor has with it.

    The best is sought on all levels. Anchors in the batch padding are left out.
    """
    whole, boxes = anchors.boxes(), targets.table.boxes
    there = inside(targets, sizes, strides, anchors.level_sizes[0] // math.prod(sizes[0]))  # [N, A]
    near = torch.zeros_like(there)
    for cut in pieces(boxes.shape[1], there.numel()):
        overlap = box_iou(boxes[:, cut].flatten(0, 1).to(whole.dtype), whole)
        overlap = overlap.view(len(boxes), -1, len(whole)) * there[:, None]  # [N, G, A]; 0 where there is no box
        near = near | (overlap > share * overlap.amax(2, keepdim=True)).any(1)
    return _by_cell(near, anchors.level_sizes, sizes)


def squares(pairs: Iterable[tuple[Tensor, Tensor]], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Summed squared differences within the masks, over channels, and the number of cells: [L] both, of a batch.

    `pairs` are both models' maps of each level, [N, C, H_l, W_l].
    """
    sums = [
        ((ours - theirs).square().sum(1, keepdim=True) * mask).sum()
        for (ours, theirs), mask in zip(pairs, masks, strict=True)
    ]
    made = torch.stack(sums)
    return made, torch.stack([mask.sum() for mask in masks]).to(made)


def _rectangles(down: Tensor, across: Tensor) -> Tensor:
    """Rows [N, G, H] and columns [N, G, W] of each rectangle -> [N, 1, H, W]: whether a cell is in any."""
    return ((down.mT.float() @ across.float()) > 0)[:, None]


def _by_cell(anchors: Tensor, level_sizes: list[int], sizes: Sequence[Size]) -> list[Tensor]:
    """[N, A] bool -> whether it is true of any anchor of a cell."""
    return [
        part.view(len(part), 1, *size, -1).any(-1)
        for part, size in zip(torch.split(anchors, level_sizes, dim=1), sizes, strict=True)
    ]
