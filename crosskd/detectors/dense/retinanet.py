"""RetinaNet (arXiv 1708.02002): nine anchors a cell, focal loss, boxes as deltas to their anchor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from crosskd.boxes.anchors import Anchors, octave_anchors
from crosskd.boxes.assign_iou import max_iou
from crosskd.boxes.coding import decode_deltas, encode_deltas
from crosskd.detectors.dense.hard_label_losses import focal_loss, overlap_losses
from crosskd.detectors.dense.head import DenseHead, map_sizes
from crosskd.detectors.dense.positives import Positives
from crosskd.losses import EPSILON, rank_own
from crosskd.spec.config import ModelConfig
from crosskd.structures import Assignment, Losses, Predictions, Size, Targets

STDS = (1.0, 1.0, 1.0, 1.0)


class RetinaNet(DenseHead):
    """Every anchor predicts all classes and four deltas; there is neither centerness nor a factor per level."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.anchor_scale = config.anchor_scale
        self.config = config.head

    def anchors(self, sizes: Sequence[Size], like: Tensor) -> Anchors:
        config = self.config
        return octave_anchors(
            sizes,
            self.strides,
            self.anchor_scale,
            config.octaves,
            config.ratios,
            like,
            whole_pixels=config.whole_pixel_anchors,
            spread=config.spread_cells,
        )

    def assign(self, predictions: Predictions, targets: Targets) -> Assignment:
        sizes = map_sizes(predictions.cls)
        return max_iou(self.anchors(sizes, targets.table.boxes), sizes, self.strides, targets, self.num_classes)

    def normaliser(self, assignment: Assignment) -> Tensor:
        """The positives of each image, at least one; of this rank alone, as the published results were made."""
        return rank_own(self._count(assignment))

    def _loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """Focal and box loss, each [L], divided by the positives."""
        codes = self.codes(predictions)
        positives = Positives.of(assignment, self.anchors(map_sizes(predictions.cls), codes), self.num_classes)
        divisor = self.normaliser(assignment) + EPSILON
        ours = positives.gather(codes)
        box = overlap_losses(self.decode(ours, positives.anchors), positives.boxes, self.weights)
        if self.weights.l1:
            aim = encode_deltas(positives.anchors.boxes(), positives.boxes, STDS)
            box = box + self.weights.l1 * (ours - aim).abs().sum(-1)
        return {
            "loss_cls": focal_loss(self, predictions, assignment, self.weights) / divisor,
            "loss_bbox": positives.level_sums(box, assignment) / divisor,
        }

    def decode(self, codes: Tensor, anchors: Anchors) -> Tensor:
        return decode_deltas(anchors.boxes(), codes, STDS)
