"""What the detectors with hard labels share: the focal loss, the overlap losses, the target of centerness."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.boxes.anchors import Anchors
from crosskd.boxes.coding import centerness
from crosskd.boxes.ops import overlap_loss
from crosskd.detectors.dense.anchor_windows import by_anchor
from crosskd.detectors.dense.head import DenseHead, flatten, map_sizes
from crosskd.detectors.dense.positives import Positives
from crosskd.losses import EPSILON, focal_negative, focal_positive, level_sums
from crosskd.spec.config import LossConfig
from crosskd.structures import Assignment, Losses, Predictions


def focal_loss(head: DenseHead, predictions: Predictions, assignment: Assignment, weights: LossConfig) -> Tensor:
    """Sum of the focal loss over all anchors and classes of each level -> [L].

    Every entry counts as background first; the few that are objects are then put right. A one-hot target of the
    logits' size is never made.
    """
    gamma, alpha = weights.focal_gamma, weights.focal_alpha
    label = assignment.labels.clamp(max=head.num_classes - 1)[..., None]  # of the background: any
    there = assignment.labels < head.num_classes

    def each(logits: Tensor, window: slice) -> tuple[Tensor]:
        background = focal_negative(logits, gamma, alpha).sum(-1) * assignment.label_weights[:, window]
        own = logits.gather(-1, label[:, window])[..., 0]
        correction = focal_positive(own, gamma, alpha) - focal_negative(own, gamma, alpha)
        return (background + torch.where(there[:, window], correction, 0.0),)

    return weights.focal * level_sums(by_anchor(predictions.cls, head.num_classes, each)[0], assignment.level_sizes)


def overlap_losses(boxes: Tensor, target: Tensor, weights: LossConfig) -> Tensor:
    """The weighted sum of 1 - GIoU and -log IoU, [P, 4] -> [P]."""
    total = boxes.sum(-1) * 0  # keeps the graph where neither has a weight
    if weights.giou:
        total = total + weights.giou * overlap_loss(boxes, target, "giou")
    if weights.iou:
        total = total + weights.iou * overlap_loss(boxes, target, "iou")
    return total


def centerness_losses(
    head: DenseHead, predictions: Predictions, assignment: Assignment, box_divisor: Callable[[Tensor], Tensor]
) -> Losses:
    """Focal, box and centerness loss of a head that predicts centerness, each [L].

    The first and the last are divided by the positives. Boxes are weighed by the centerness of their anchors, and
    divided by what `box_divisor` makes of these [P].
    """
    assert predictions.centerness is not None
    assert assignment.centerness is not None
    codes = head.codes(predictions)
    positives = Positives.of(assignment, head.anchors(map_sizes(predictions.cls), codes), head.num_classes)
    centre = positives.gather(assignment.centerness).to(codes.dtype)
    divisor = head.normaliser(assignment) + EPSILON
    box = head.decode(positives.gather(codes), positives.anchors)
    overlap = overlap_losses(box, positives.boxes, head.weights) * centre
    logits = positives.gather(flatten(predictions.centerness, 1))[:, 0]
    near = F.binary_cross_entropy_with_logits(logits, centre, reduction="none")
    return {
        "loss_cls": focal_loss(head, predictions, assignment, head.weights) / divisor,
        "loss_bbox": positives.level_sums(overlap, assignment) / box_divisor(centre),
        "loss_centerness": positives.level_sums(near, assignment) * (head.weights.centerness / divisor),
    }


def centerness_target(assignment: Assignment, anchors: Anchors, classes: int) -> Tensor:
    """[N, A]: the centerness of the positives in their boxes, 0 elsewhere."""
    near = centerness(anchors.centres, assignment.boxes)
    return near.where(assignment.labels < classes, near.new_zeros(()))
