"""LD: localisation distillation, of box distributions (arXiv 2102.12252)."""

from __future__ import annotations

import torch
from torch import Tensor

from crosskd.boxes.valuable import valuable_region
from crosskd.detectors.dense.gfl import GFL, SIDES
from crosskd.detectors.dense.head import map_sizes
from crosskd.distill.features import image_mean
from crosskd.distill.term import Step, Term
from crosskd.losses import bins_divergence, level_sums
from crosskd.spec.config import LDConfig
from crosskd.structures import Assignment, Losses

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
            ours, theirs = (head.per_side(head.codes(view.predictions)) for view in (step.student, step.teacher))
            positive = assignment.labels < head.num_classes
            score = head.best_logits(step.student.predictions).sigmoid()
            sizes = map_sizes(step.student.predictions.cls)
            anchors = head.anchors(sizes, step.targets.boxes[0])
            region = valuable_region(anchors, sizes, head.strides, step.targets, config.gamma)
            main = self._divergence(ours, theirs, torch.where(positive, score, score.new_zeros(())), assignment)
            vlr = self._divergence(ours, theirs, region.to(ours.dtype), assignment)
            return {
                "ld_main": config.main_weight * IMAGES * main,
                "ld_vlr": config.vlr_weight * IMAGES * VLR_SHARE * vlr,
            }

    def _divergence(self, ours: Tensor, theirs: Tensor, weight: Tensor, assignment: Assignment) -> Tensor:
        """Box logits [N, A, 4, R + 1] both, weight [N, A] -> [L], per image; what has no weight costs nothing."""
        image, anchor = (weight > 0).nonzero(as_tuple=True)
        sides = bins_divergence(ours[image, anchor], theirs[image, anchor], self.config.temperature)  # [D, 4]
        mean = sides.sum(-1) / (SIDES * ours.shape[-1])
        spread = mean.new_zeros(weight.shape).index_put((image, anchor), mean * weight[image, anchor])
        return image_mean(level_sums(spread, assignment.level_sizes), images=len(weight))
