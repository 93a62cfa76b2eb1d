"""LD: localisation distillation, of box distributions (arXiv 2102.12252)."""

from __future__ import annotations

import torch
from torch import Tensor

from crosskd.boxes.valuable import valuable_region
from crosskd.detectors.dense.anchor_windows import by_anchor, cut_out
from crosskd.detectors.dense.gfl import GFL, SIDES
from crosskd.detectors.dense.head import map_sizes
from crosskd.distill.maps.features import image_mean
from crosskd.distill.term import Step, Term
from crosskd.losses import bins_divergence, level_sums
from crosskd.spec.config import LDConfig
from crosskd.structures import Assignment, Losses, Predictions

IMAGES = 2  # of a rank's batch in the published runs, over which their losses are sums
VLR_SHARE = 0.25  # of the valuable region's sum, in the published runs: their divisor there is 16, not 4


class LD(Term):
    """KL divergence of the sides' distributions in two regions of anchors, each with a weight of its own.

    The main region are the positives, weighed by the student's best class probability as its own box losses are; the
    valuable region (see `valuable_region`) is weighed by IoU. As in the published runs the divergence is the mean
    over bins and sides, and anchors are summed; so that the size of the batch does not matter, a larger or smaller
    batch counts as `IMAGES` images.
    """

    config: LDConfig

    def forward(self, step: Step) -> Losses:
        config, head, assignment = self.config, step.student.head, step.student.assignment
        assert isinstance(head, GFL)  # pairing has seen to it
        with torch.autocast(step.student.predictions.cls[0].device.type, enabled=False):
            positive = assignment.labels < head.num_classes
            score = head.best_logits(step.student.predictions).sigmoid()
            sizes = map_sizes(step.student.predictions.cls)
            anchors = head.anchors(sizes, step.targets.table.boxes)
            region = valuable_region(anchors, sizes, head.strides, step.targets, config.gamma)
            apart = self._divergence(head, step.student.predictions, step.teacher.predictions)  # [N, A]
            main = _summed(apart, torch.where(positive, score, 0.0), assignment)
            vlr = _summed(apart, region.to(apart.dtype), assignment)
            return {
                "ld_main": config.main_weight * IMAGES * main,
                "ld_vlr": config.vlr_weight * IMAGES * VLR_SHARE * vlr,
            }

    def _divergence(self, head: GFL, ours: Predictions, theirs: Predictions) -> Tensor:
        """The mean over bins and sides of every anchor, [N, A], made a window of the anchors at a time."""

        def each(logits: Tensor, window: slice) -> tuple[Tensor]:
            aim = cut_out(theirs.box, head.code_size, window)
            sides = bins_divergence(head.per_side(logits), head.per_side(aim), self.config.temperature)  # [N, W, 4]
            return (sides.sum(-1) / (SIDES * (head.reg_max + 1)),)

        return by_anchor(ours.box, head.code_size, each)[0]


def _summed(apart: Tensor, weight: Tensor, assignment: Assignment) -> Tensor:
    """[N, A] both -> [L], per image; what has no weight costs nothing."""
    return image_mean(level_sums(torch.where(weight > 0, apart, 0.0) * weight, assignment.level_sizes), len(weight))
