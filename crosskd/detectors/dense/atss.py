"""ATSS (arXiv 1912.02424): one anchor a cell, adaptive assignment, centerness, boxes as deltas to their anchor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from crosskd.boxes.anchors import Anchors, square_anchors
from crosskd.boxes.assign import atss
from crosskd.boxes.coding import decode_deltas
from crosskd.detectors.dense.hard_label_losses import centerness_losses, centerness_target
from crosskd.detectors.dense.head import DenseHead, map_sizes
from crosskd.losses import EPSILON, rank_mean
from crosskd.spec.config import ModelConfig
from crosskd.structures import Assignment, Losses, Predictions, Size, Targets

STDS = (0.1, 0.1, 0.2, 0.2)


class ATSS(DenseHead):
    """Focal loss on classes; GIoU on boxes, weighed by the centerness that the box tower learns beside them."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.anchor_scale = config.anchor_scale

    def anchors(self, sizes: Sequence[Size], like: Tensor) -> Anchors:
        return square_anchors(sizes, self.strides, self.anchor_scale, like)

    def assign(self, predictions: Predictions, targets: Targets) -> Assignment:
        sizes = map_sizes(predictions.cls)
        anchors = self.anchors(sizes, targets.table.boxes)
        assignment = atss(anchors, sizes, self.strides, targets, self.num_classes)
        return replace(assignment, centerness=centerness_target(assignment, anchors, self.num_classes))

    def _loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """Focal, GIoU and centerness loss; the second is divided by the positives' summed centerness, at least 1.

        That sum is averaged over ranks, as the number of positives is.
        """
        return centerness_losses(
            self, predictions, assignment, lambda centre: (1 + EPSILON) * rank_mean(centre.sum(), least=1)
        )

    def decode(self, codes: Tensor, anchors: Anchors) -> Tensor:
        return decode_deltas(anchors.boxes(), codes, STDS)
