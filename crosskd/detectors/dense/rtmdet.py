"""RTMDet (arXiv 2212.07784): points, classes as localisation quality, assignment by what is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from crosskd.boxes.anchors import Anchors, cell_points
from crosskd.boxes.assign_dynamic import Said, dynamic_soft_label, nothing_there
from crosskd.boxes.coding import decode_distances
from crosskd.boxes.ops import overlap_loss
from crosskd.detectors.dense.anchor_windows import by_anchor, of_classes
from crosskd.detectors.dense.head import DenseHead, map_sizes
from crosskd.detectors.dense.positives import Positives
from crosskd.detectors.dense.quality_loss import quality_focal_loss
from crosskd.losses import EPSILON, at_least_float32, level_sums, rank_mean
from crosskd.spec.config import ModelConfig
from crosskd.spec.registry import BoxMimic
from crosskd.structures import Assignment, Losses, Predictions, Size, Targets


class RTMDet(DenseHead):
    """The towers' convolutions are shared by the levels; norms and prediction layers are each level's own.

    The box code is four distances in pixels: the output times the stride, with `exp_on_reg` its exponential.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.exp_on_reg = config.head.exp_on_reg

    def anchors(self, sizes: Sequence[Size], like: Tensor) -> Anchors:
        return cell_points(sizes, self.strides, 0.0, like)

    def _code(self, code: Tensor, level: int) -> Tensor:
        code = at_least_float32(code)  # an exponential soon leaves half precision
        return (code.exp() if self.exp_on_reg else code) * self.strides[level]

    @torch.no_grad()
    def assign(self, predictions: Predictions, targets: Targets) -> Assignment:
        sizes = map_sizes(predictions.cls)
        with torch.autocast(predictions.cls[0].device.type, enabled=False):
            (background,) = by_anchor(
                predictions.cls, self.num_classes, lambda logits, _: (nothing_there(logits).sum(-1),)
            )
            said = Said(background, partial(of_classes, predictions.cls), self.decoded(predictions))
            points = self.anchors(sizes, said.boxes)
            return dynamic_soft_label(points, sizes, self.strides, said, targets, self.num_classes)

    def normaliser(self, assignment: Assignment) -> Tensor:
        """The summed quality of the positives, averaged over ranks, at least 1."""
        assert assignment.quality is not None
        return rank_mean(assignment.quality.sum(), least=1)

    def _loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """Quality focal and GIoU loss, each [L]; the second is weighed by the quality, and both divided by its sum."""
        assert assignment.quality is not None
        codes = self.codes(predictions)
        positives = Positives.of(assignment, self.anchors(map_sizes(predictions.cls), codes), self.num_classes)
        quality = positives.gather(assignment.quality).to(codes.dtype)  # [P]
        focal = quality_focal_loss(self, predictions, positives, quality, assignment)  # [N, A]
        box = self.decode(positives.gather(codes), positives.anchors)
        overlap = overlap_loss(box, positives.boxes, "giou") * quality
        total = (1 + EPSILON) * self.normaliser(assignment)
        return {
            "loss_cls": level_sums(focal, assignment.level_sizes) * self.weights.quality_focal / total,
            "loss_bbox": positives.level_sums(overlap, assignment) * self.weights.giou / total,
        }

    def box_distance(self, ours: Predictions, theirs: Predictions, how: BoxMimic, temperature: float) -> Tensor:
        """As the others', of boxes that are some: distances may be negative here, and a side less than nothing.

        `theirs` without area say nothing, and their distance is 0. Of `ours` what their corners span is compared: the
        GIoU of a box with two negative sides has no bound, and would reward it.
        """
        if how == "kl":
            return super().box_distance(ours, theirs, how, temperature)
        mine, other = self.decoded(ours), self.decoded(theirs)
        first, second = mine[..., :2], mine[..., 2:]
        spanned = torch.cat((torch.minimum(first, second), torch.maximum(first, second)), dim=-1)
        there = (other[..., 2:] > other[..., :2]).all(dim=-1)
        aim = torch.where(there[..., None], other, spanned.detach())
        return torch.where(there, overlap_loss(spanned, aim, how), 0.0)

    def decode(self, codes: Tensor, anchors: Anchors) -> Tensor:
        return decode_distances(anchors.centres, codes)
