"""What the detectors share whose classes are scores of localisation quality: their focal loss."""

from __future__ import annotations

import torch
from torch import Tensor

from crosskd.detectors.dense.anchor_windows import by_anchor
from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.dense.positives import Positives
from crosskd.losses import quality_focal
from crosskd.structures import Assignment, Predictions


def quality_focal_loss(
    head: DenseHead, predictions: Predictions, positives: Positives, overlap: Tensor, assignment: Assignment
) -> Tensor:
    """The class loss of every anchor, [N, A]: of quality `overlap` [P] in the positives' classes, else 0."""
    label = assignment.labels.clamp(max=head.num_classes - 1)[..., None]  # of the background: any
    quality = positives.spread(overlap, assignment)

    def each(logits: Tensor, window: slice) -> tuple[Tensor]:
        aim = torch.zeros_like(logits).scatter_(-1, label[:, window], quality[:, window, None])
        return (quality_focal(logits, aim, head.weights.quality_focal_beta).sum(-1),)

    return by_anchor(predictions.cls, head.num_classes, each)[0] * assignment.label_weights
