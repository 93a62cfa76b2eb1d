"""Where, besides its positives, a teacher has something to say about a box: LD's valuable localisation region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou, distance_box_iou

from crosskd.boxes.anchors import Anchors, valid_sizes
from crosskd.boxes.assign import inside, nearest_anchors, threshold
from crosskd.boxes.pieces import pieces
from crosskd.structures import Size, Targets


@torch.no_grad()
def valuable_region(
    anchors: Anchors, sizes: Sequence[Size], strides: Sequence[int], targets: Targets, gamma: float
) -> Tensor:
    """[N, A]: the IoU of each anchor of the region with its box, 0 elsewhere (arXiv 2102.12252, algorithm 1).

    With the IoU t from which ATSS takes an anchor for a box, the region is gamma * t <= DIoU < t (DIoU: arXiv
    1911.08287). An anchor in the regions of several boxes has the largest IoU of these. Of one anchor a cell;
    anchors in the batch padding are in no region.
    """
    everything, rows = anchors.boxes(), []
    for boxes, padded in zip(targets.boxes, targets.padded, strict=True):
        if len(boxes) == 0:
            rows.append(everything.new_zeros(len(everything)))
            continue
        valid = valid_sizes(sizes, strides, padded)
        nearest = nearest_anchors(boxes, sizes, valid, strides, anchors.level_sizes)
        row = everything.new_zeros(len(everything))
        for cut in pieces(len(boxes), len(everything)):
            region = _region(boxes[cut], everything, nearest[cut], gamma)
            row = torch.maximum(row, region.amax(0))
        rows.append(row * inside(sizes, valid, boxes.device))
    return torch.stack(rows)


def _region(boxes: Tensor, anchors: Tensor, nearest: Tensor, gamma: float) -> Tensor:
    """[G, A]: the IoU of each anchor of a box's region, padding or not, 0 elsewhere; `nearest` [G, k] as ATSS finds."""
    overlap = box_iou(boxes, anchors)  # [G, A]
    upper = threshold(overlap.gather(1, nearest))[:, None]  # [G, 1]
    distance = distance_box_iou(boxes, anchors)
    within = (distance >= gamma * upper) & (distance < upper)
    return torch.where(within, overlap, overlap.new_zeros(()))
