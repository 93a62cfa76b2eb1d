"""Where, besides its positives, a teacher has something to say about a box: LD's valuable localisation region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou, distance_box_iou

from crosskd.boxes.anchors import Anchors
from crosskd.boxes.assign import by_padding, inside, nearest_anchors, threshold
from crosskd.boxes.ops import iou
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
    everything, table = anchors.boxes(), targets.table
    boxes = table.boxes.flatten(0, 1)
    upper = torch.full_like(boxes[:, 0], -torch.inf)  # below it lies nothing: where there is no box, no region
    for valid, place in by_padding(targets, sizes, strides):
        nearest = nearest_anchors(boxes[place], sizes, valid, strides, anchors.level_sizes)
        upper[place] = threshold(iou(boxes[place, None], everything[nearest]))
    upper = upper.view(table.boxes.shape[:2])
    found = everything.new_zeros(len(table.boxes), len(everything))
    for cut in pieces(table.boxes.shape[1], found.numel()):
        found = torch.maximum(found, _region(table.boxes[:, cut], everything, upper[:, cut, None], gamma).amax(1))
    return found * inside(targets, sizes, strides)


def _region(boxes: Tensor, anchors: Tensor, upper: Tensor, gamma: float) -> Tensor:
    """Boxes [N, G, 4] -> [N, G, A]: the IoU of each anchor of a box's region, padding or not, 0 elsewhere."""
    shape = (*boxes.shape[:2], len(anchors))
    boxes = boxes.flatten(0, 1)
    distance = distance_box_iou(boxes, anchors).view(shape)
    within = (distance >= gamma * upper) & (distance < upper)
    return torch.where(within, box_iou(boxes, anchors).view(shape), 0.0)
