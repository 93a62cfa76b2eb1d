"""YOLOX (arXiv 2107.08430): points, objectness, classes of what is an object, assignment by what is predicted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.boxes.anchors import Anchors, cell_points
from crosskd.boxes.assign_simota import Said, nothing_there, simota
from crosskd.boxes.ops import iou
from crosskd.detectors.dense.anchor_windows import by_anchor, gather, of_classes
from crosskd.detectors.dense.head import DenseHead, flatten, map_sizes
from crosskd.detectors.dense.positives import Positives
from crosskd.losses import level_sums, rank_mean
from crosskd.spec.config import ModelConfig
from crosskd.structures import Assignment, Losses, Predictions, Size, Targets

LEAST_IOU = 1e-16  # of which the square is taken
LARGEST_SIDE = 20.0  # logarithm of a decoded side in strides, 10^8 of them: no box is infinite, nor its overlap NaN
SIDE_FLOOR = 1e-8  # strides, added to a side before its logarithm


class YOLOX(DenseHead):
    """Each level has towers and prediction layers of its own; objectness comes from the boxes' tower.

    The box code, in strides: the way from the cell's upper left corner to the box's centre, and the logarithms of its
    sides. In the last epochs, as `losses.l1_last_epochs` says, it is also learnt as it is.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.use_l1 = False

    def begin_epoch(self, index: int, epochs: int) -> None:
        self.use_l1 = self.weights.l1 > 0 and index >= epochs - self.weights.l1_last_epochs

    def anchors(self, sizes: Sequence[Size], like: Tensor) -> Anchors:
        return cell_points(sizes, self.strides, 0.0, like)

    @torch.no_grad()
    def assign(self, predictions: Predictions, targets: Targets) -> Assignment:
        assert predictions.objectness is not None
        with torch.autocast(predictions.cls[0].device.type, enabled=False):
            there = flatten(predictions.objectness, 1).sigmoid()  # [N, A, 1]

            def unlike(logits: Tensor, window: slice) -> tuple[Tensor]:
                return (nothing_there((logits.sigmoid() * there[:, window]).sqrt()).sum(-1),)

            def scores(classes: Tensor) -> Tensor:
                return (of_classes(predictions.cls, classes).sigmoid() * there.mT).sqrt()

            (background,) = by_anchor(predictions.cls, self.num_classes, unlike)
            said = Said(background, scores, self.decoded(predictions))
            middles = cell_points(map_sizes(predictions.cls), self.strides, 0.5, said.boxes)
            return simota(middles, said, targets, self.num_classes)

    def normaliser(self, assignment: Assignment) -> Tensor:
        """The positives of the batch, averaged over ranks, at least 1."""
        return rank_mean(assignment.positives.sum().to(assignment.label_weights.dtype), least=1)

    def _loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """Objectness everywhere; classes, boxes and (in the last epochs) codes of the positives; each [L]."""
        assert predictions.objectness is not None
        assert assignment.quality is not None
        weights, total, codes = self.weights, self.normaliser(assignment), self.codes(predictions)
        positives = Positives.of(assignment, self.anchors(map_sizes(predictions.cls), codes), self.num_classes)
        objects = (assignment.labels < self.num_classes).to(codes.dtype)  # [N, A]
        there = F.binary_cross_entropy_with_logits(
            flatten(predictions.objectness, 1)[..., 0], objects, reduction="none"
        )
        code = positives.gather(codes)
        overlap = iou(self.decode(code, positives.anchors), positives.boxes).clamp(min=LEAST_IOU)
        losses = {
            "loss_cls": weights.cross_entropy
            * positives.level_sums(self._classes(predictions, positives, assignment), assignment),
            "loss_bbox": weights.iou * positives.level_sums(1 - overlap.square(), assignment),
            "loss_obj": weights.objectness * level_sums(there, assignment.level_sizes),
        }
        if self.use_l1:
            way = (code - self._encode(positives)).abs().sum(-1)
            losses["loss_l1"] = weights.l1 * positives.level_sums(way, assignment)
        return {name: values / total for name, values in losses.items()}

    def _classes(self, predictions: Predictions, positives: Positives, assignment: Assignment) -> Tensor:
        """Cross entropy with the IoU in the class, [P]."""
        assert assignment.quality is not None
        logits = gather(predictions.cls, self.num_classes, positives.image, positives.anchor)  # [P, K]
        quality = positives.gather(assignment.quality).to(logits.dtype)
        aim = torch.zeros_like(logits).scatter_(-1, positives.labels[:, None], quality[:, None])
        return F.binary_cross_entropy_with_logits(logits, aim, reduction="none").sum(-1)

    def _encode(self, positives: Positives) -> Tensor:
        """The code of the boxes to be learnt, [P, 4]."""
        first, second = positives.boxes[:, :2], positives.boxes[:, 2:]
        stride = positives.anchors.strides[:, None]
        way = ((first + second) / 2 - positives.anchors.centres) / stride
        return torch.cat((way, ((second - first) / stride + SIDE_FLOOR).log()), dim=-1)

    def decode(self, codes: Tensor, anchors: Anchors) -> Tensor:
        stride = anchors.strides[:, None]
        centre = anchors.centres + codes[..., :2] * stride
        half = codes[..., 2:].clamp(max=LARGEST_SIDE).exp() * stride / 2
        return torch.cat((centre - half, centre + half), dim=-1)
