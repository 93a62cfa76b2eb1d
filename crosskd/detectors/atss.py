"""ATSS (arXiv 1912.02424): one anchor a cell, adaptive assignment, centerness, boxes as deltas to their anchor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from crosskd.boxes.anchors import Anchors, square_anchors
from crosskd.boxes.assign import atss
from crosskd.boxes.coding import decode_deltas
from crosskd.config import ModelConfig
from crosskd.detectors.classic import centerness_target, focal_loss, overlap_losses
from crosskd.detectors.head import DenseHead, flatten, map_sizes
from crosskd.detectors.positives import Positives
from crosskd.losses import EPSILON, rank_mean
from crosskd.structures import Assignment, Losses, Predictions, Size, Targets

STDS = (0.1, 0.1, 0.2, 0.2)


class ATSS(DenseHead):
    """Focal loss on classes; GIoU on boxes, weighed by the centerness that the box tower learns beside them."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.anchor_scale = config.anchor_scale

    def anchors(self, sizes: Sequence[Size], like: Tensor) -> Anchors:
        return square_anchors(sizes, self.strides, self.anchor_scale, like)

    def assign(self, sizes: Sequence[Size], targets: Targets) -> Assignment:
        anchors = self.anchors(sizes, targets.boxes[0])
        assignment = atss(anchors, sizes, self.strides, targets, self.num_classes)
        return replace(assignment, centerness=centerness_target(assignment, anchors, self.num_classes))

    def _loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """Focal, GIoU and centerness loss, each [L].

        The first and the last are divided by the positives, the second by the sum of their centerness, at least 1;
        both are averaged over ranks.
        """
        assert predictions.centerness is not None
        assert assignment.centerness is not None
        codes = self.codes(predictions)
        positives = Positives.of(assignment, self.anchors(map_sizes(predictions.cls), codes), self.num_classes)
        centre = positives.gather(assignment.centerness).to(codes.dtype)
        divisor = self.normaliser(assignment) + EPSILON
        box = self.decode(positives.gather(codes), positives.anchors)
        overlap = overlap_losses(box, positives.boxes, self.weights) * centre
        logits = positives.gather(flatten(predictions.centerness, 1))[:, 0]
        near = F.binary_cross_entropy_with_logits(logits, centre, reduction="none")
        total = rank_mean(centre.sum(), least=1)
        return {
            "loss_cls": focal_loss(self.logits(predictions), positives, assignment, self.weights) / divisor,
            "loss_bbox": positives.level_sums(overlap, assignment) / (1 + EPSILON) / total,
            "loss_centerness": positives.level_sums(near, assignment) * (self.weights.centerness / divisor),
        }

    def decode(self, codes: Tensor, anchors: Anchors) -> Tensor:
        return decode_deltas(anchors.boxes(), codes, STDS)
