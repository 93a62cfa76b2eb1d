"""The positive anchors of a batch, gathered: what box losses are made on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crosskd.boxes.anchors import Anchors
from crosskd.losses import level_sums
from crosskd.structures import Assignment


@dataclass(frozen=True)
class Positives:
    """P places for the anchors that learn a box, over all images and levels; as many as there may be.

    How many there are is known on the device alone: to ask would keep a GPU waiting. A place without a positive has a
    box of its anchor's size, learnt at no cost: what is gathered for it is 0 and has no gradient.
    """

    index: Tensor | None  # [P] long: the place's anchor among the N * A; None: each anchor has its own place
    there: Tensor  # [P] bool: whether the place has a positive
    image: Tensor  # [P] long
    anchor: Tensor  # [P] long
    labels: Tensor  # [P] long; 0 where there is none
    boxes: Tensor  # [P, 4] pixels, to be learnt
    anchors: Anchors  # those of the P

    @classmethod
    def of(cls, assignment: Assignment, anchors: Anchors, classes: int) -> Positives:
        hit = (assignment.labels < classes).flatten()  # [N * A]
        count = assignment.labels.shape[1]
        most = len(hit) if assignment.most is None else min(assignment.most, len(hit))
        index, there = (None, hit) if most == len(hit) else _compact(hit, most)
        place = torch.arange(len(hit), device=hit.device) if index is None else index
        image, anchor = place // count, place % count
        own = anchors.take(anchor)
        half = torch.where(own.extents > 0, own.extents, own.strides[:, None]) / 2
        spare = torch.cat((own.centres - half, own.centres + half), dim=1)
        boxes = assignment.boxes.flatten(0, 1) if index is None else assignment.boxes.flatten(0, 1)[index]
        labels = assignment.labels.flatten() if index is None else assignment.labels.flatten()[index]
        boxes = torch.where(there[:, None], boxes.to(spare.dtype), spare)
        return cls(index, there, image, anchor, labels.where(there, 0), boxes, own)

    def gather(self, values: Tensor) -> Tensor:
        """[N, A, ...] -> [P, ...]; 0 where there is none."""
        rows = values.flatten(0, 1) if self.index is None else values.flatten(0, 1)[self.index]
        return torch.where(self.there.view(-1, *[1] * (rows.dim() - 1)), rows, 0.0)

    def spread(self, values: Tensor, assignment: Assignment) -> Tensor:
        """[P] -> [N, A]; 0 where no positive is."""
        values, shape = torch.where(self.there, values, 0.0), assignment.labels.shape
        if self.index is None:
            return values.view(shape)
        place = torch.where(self.there, self.index, shape.numel())  # what is none goes behind the last
        return values.new_zeros(shape.numel() + 1).index_put((place,), values)[:-1].view(shape)

    def level_sums(self, values: Tensor, assignment: Assignment) -> Tensor:
        """[P] -> [L]."""
        return level_sums(self.spread(values, assignment), assignment.level_sizes)


def _compact(hit: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Where [D] bool is true, in order, [most] long, and whether that place of the answer is taken, [most] bool."""
    rank = hit.cumsum(0) - 1
    place = torch.where(hit, rank, most)
    index = torch.zeros(most + 1, dtype=torch.long, device=hit.device)
    index.scatter_(0, place, torch.arange(len(hit), device=hit.device))
    return index[:most], torch.arange(most, device=hit.device) <= rank[-1]
