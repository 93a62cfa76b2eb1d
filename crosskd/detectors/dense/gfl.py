"""Generalized focal loss, GFL (arXiv 2006.04388): classes as localisation quality, box sides as distributions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crosskd.boxes.anchors import Anchors, square_anchors
from crosskd.boxes.assign import atss
from crosskd.boxes.coding import decode_distances, encode_distances, expected_bin
from crosskd.boxes.ops import giou, iou
from crosskd.detectors.dense.head import DenseHead, map_sizes
from crosskd.detectors.dense.positives import Positives
from crosskd.detectors.dense.quality_loss import quality_focal_loss
from crosskd.losses import EPSILON, bins_divergence, distribution_focal, level_sums, rank_mean
from crosskd.spec.config import ModelConfig
from crosskd.spec.registry import BoxMimic
from crosskd.structures import Assignment, Losses, Predictions, Size, Targets

SIDES = 4
LAST_BIN_MARGIN = 0.1  # a distance target stays this far below the last bin: it must have a bin on either side


class GFL(DenseHead):
    """Class logits are quality scores; each box side is a distribution over distances 0..reg_max, in strides."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.anchor_scale = config.anchor_scale
        self.reg_max = config.head.reg_max
        self.bins: Tensor
        self.register_buffer("bins", torch.linspace(0, self.reg_max, self.reg_max + 1))

    def per_side(self, logits: Tensor) -> Tensor:
        """[..., 4 * (R + 1)] -> [..., 4, R + 1]."""
        return logits.reshape(*logits.shape[:-1], SIDES, self.reg_max + 1)

    def anchors(self, sizes: Sequence[Size], like: Tensor) -> Anchors:
        return square_anchors(sizes, self.strides, self.anchor_scale, like)

    def assign(self, predictions: Predictions, targets: Targets) -> Assignment:
        sizes = map_sizes(predictions.cls)
        return atss(self.anchors(sizes, targets.table.boxes), sizes, self.strides, targets, self.num_classes)

    def _loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """Quality focal, GIoU and distribution focal loss, each [L].

        The first is divided by the number of positives, where an image without any counts as one; the other two
        weigh each positive by its best class probability and are divided by the sum of these, at least 1.
        Both numbers are averaged over ranks.
        """
        codes = self.codes(predictions)
        positives = Positives.of(assignment, self.anchors(map_sizes(predictions.cls), codes), self.num_classes)
        bins = self.per_side(positives.gather(codes))  # [P, 4, R + 1]
        stride = positives.anchors.strides[:, None]
        point = positives.anchors.centres / stride  # everything about boxes in strides from here
        target = positives.boxes / stride  # [P, 4]
        box = decode_distances(point, expected_bin(bins, self.bins.to(bins.dtype)))
        distance = encode_distances(point, target).clamp(0, self.reg_max - LAST_BIN_MARGIN)

        quality = iou(box.detach(), target)
        focal = quality_focal_loss(self, predictions, positives, quality, assignment)  # [N, A]
        weight = positives.gather(self.best_logits(predictions).sigmoid())  # [P]
        total = rank_mean(weight.sum(), least=1)

        overlap = positives.level_sums((1 - giou(box, target)) * weight, assignment)
        bin_loss = positives.level_sums(distribution_focal(bins, distance).sum(-1) * weight, assignment)
        return {
            "loss_cls": level_sums(focal, assignment.level_sizes)
            * (self.weights.quality_focal / (self.normaliser(assignment) + EPSILON)),
            "loss_bbox": overlap * (self.weights.giou / (1 + EPSILON)) / total,
            "loss_dfl": bin_loss * (self.weights.distribution_focal / (SIDES + EPSILON)) / total,
        }

    def box_distance(self, ours: Predictions, theirs: Predictions, how: BoxMimic, temperature: float) -> Tensor:
        """Also `kl`: the KL divergence of the sides' distributions, summed over the four sides."""
        if how != "kl":
            return super().box_distance(ours, theirs, how, temperature)
        mine, other = (self.per_side(self.codes(predictions)) for predictions in (ours, theirs))
        return bins_divergence(mine, other, temperature).sum(-1)

    def decode(self, codes: Tensor, anchors: Anchors) -> Tensor:
        distances = expected_bin(self.per_side(codes), self.bins.to(codes.dtype))
        return decode_distances(anchors.centres, distances * anchors.strides[:, None])
