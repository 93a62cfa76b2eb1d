"""The positive anchors of a batch, gathered: what box losses are made on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from crosskd.boxes.anchors import Anchors
from crosskd.losses import level_sums
from crosskd.structures import Assignment


@dataclass(frozen=True)
class Positives:
    """P anchors that learn a box, over all images and levels."""

    image: Tensor  # [P] long
    anchor: Tensor  # [P] long
    labels: Tensor  # [P] long
    boxes: Tensor  # [P, 4] pixels, to be learnt
    anchors: Anchors  # those of the P

    @classmethod
    def of(cls, assignment: Assignment, anchors: Anchors, classes: int) -> Positives:
        image, anchor = (assignment.labels < classes).nonzero(as_tuple=True)
        boxes = assignment.boxes[image, anchor].to(anchors.centres.dtype)
        return cls(image, anchor, assignment.labels[image, anchor], boxes, anchors.take(anchor))

    def gather(self, values: Tensor) -> Tensor:
        """[N, A, ...] -> [P, ...]."""
        return values[self.image, self.anchor]

    def level_sums(self, values: Tensor, assignment: Assignment) -> Tensor:
        """[P] -> [L]."""
        spread = values.new_zeros(assignment.labels.shape).index_put((self.image, self.anchor), values)
        return level_sums(spread, assignment.level_sizes)
