"""Dynamic k: each box takes its cheapest candidates, as many as their IoUs say (arXiv 2103.14259, 2107.08430)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crosskd.boxes.ops import iou
from crosskd.boxes.pieces import pieces

# A piece of the boxes, and their IoU with every candidate, [G, C] -> what each candidate costs each of them, [G, C].
Cost = Callable[[slice, Tensor], Tensor]


def dynamic_k(predicted: Tensor, boxes: Tensor, cost: Cost, top: int) -> tuple[Tensor, Tensor]:
    """Each candidate's box, -1 for none, and their IoU, [C] both; of `predicted` boxes [C, 4] and `boxes` [G, 4].

    A box gets as many candidates as the IoUs of its `top` best add up to, rounded down, one at least. A candidate that
    several boxes take goes to the one, of all boxes, that it costs least.
    """
    count = len(predicted)
    takers = torch.zeros(count, dtype=torch.long, device=boxes.device)  # how many boxes take the candidate
    taker = torch.full_like(takers, -1)
    least = boxes.new_full((count,), torch.inf)
    cheapest = torch.zeros_like(takers)
    for cut in pieces(len(boxes), count):
        overlap = iou(predicted[None], boxes[cut, None])  # [G, C]
        costs = cost(cut, overlap)
        takes = _taken(costs, overlap, top)
        takers += takes.sum(dim=0)
        taker = torch.where(takes.any(dim=0), takes.int().argmax(dim=0) + cut.start, taker)
        value, box = costs.min(dim=0)
        cheapest = torch.where(value < least, box + cut.start, cheapest)
        least = torch.minimum(least, value)
    owner = torch.where(takers > 1, cheapest, taker)
    return owner, iou(predicted, boxes[owner.clamp(min=0)])


def _taken(cost: Tensor, overlap: Tensor, top: int) -> Tensor:
    """[G, C] both -> [G, C] bool: the cheapest of each box's candidates, as many as it gets."""
    most = min(top, overlap.shape[1])
    number = overlap.topk(most, dim=1).values.sum(dim=1).int().clamp(min=1)  # at most as many as were summed
    cheapest = cost.topk(most, dim=1, largest=False).indices
    gets = torch.arange(most, device=cost.device) < number[:, None]
    return torch.zeros_like(cost, dtype=torch.bool).scatter_(1, cheapest, gets)
