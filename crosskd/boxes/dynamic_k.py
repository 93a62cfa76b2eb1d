"""Dynamic k: each box takes its cheapest candidates, as many as their IoUs say (arXiv 2103.14259, 2107.08430)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crosskd.boxes.ops import iou
from crosskd.boxes.pieces import pieces

# A piece of the boxes, and their IoU with every point, [N, G, A] -> what each point costs each of them, [N, G, A].
Cost = Callable[[slice, Tensor], Tensor]


def dynamic_k(
    predicted: Tensor, boxes: Tensor, there: Tensor, candidate: Tensor, cost: Cost, top: int
) -> tuple[Tensor, Tensor]:
    """Each point's box, -1 for none, and their IoU, [N, A] both; of `predicted` [N, A, 4] and `boxes` [N, G, 4].

    `there` [N, G] says which boxes are some, `candidate` [N, A] which points may be taken. A box gets as many of these
    as the IoUs of its `top` best add up to, rounded down, one at least. A point that several boxes take goes to the
    one, of all boxes, that it costs least.
    """
    takers = torch.zeros_like(candidate, dtype=torch.long)  # how many boxes take the point
    taker = torch.full_like(takers, -1)
    least = torch.full_like(predicted[..., 0], torch.inf)
    cheapest = torch.zeros_like(takers)
    for cut in pieces(boxes.shape[1], candidate.numel()):
        may = candidate[:, None] & there[:, cut, None]  # [N, G, A]
        overlap = iou(predicted[:, None], boxes[:, cut, None])
        costs = torch.where(may, cost(cut, overlap), torch.inf)
        takes = _taken(costs, torch.where(may, overlap, 0.0), top) & may
        takers += takes.sum(dim=1)
        taker = torch.where(takes.any(dim=1), takes.int().argmax(dim=1) + cut.start, taker)
        value, box = costs.min(dim=1)
        cheapest = torch.where(value < least, box + cut.start, cheapest)
        least = torch.minimum(least, value)
    owner = torch.where(takers > 1, cheapest, taker)
    own = boxes.gather(1, owner.clamp(min=0)[..., None].expand(-1, -1, 4))
    return owner, torch.where(owner >= 0, iou(predicted, own), 0.0)


def _taken(cost: Tensor, overlap: Tensor, top: int) -> Tensor:
    """[N, G, A] both -> [N, G, A] bool: the cheapest of each box's points, as many as it gets."""
    most = min(top, overlap.shape[2])
    number = overlap.topk(most, dim=2).values.sum(dim=2).int().clamp(min=1)  # at most as many as were summed
    cheapest = cost.topk(most, dim=2, largest=False).indices
    gets = torch.arange(most, device=cost.device) < number[..., None]
    return torch.zeros_like(cost, dtype=torch.bool).scatter_(2, cheapest, gets)
