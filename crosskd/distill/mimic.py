"""Dense predictions that imitate the teacher's, whichever head they come from. The mimicked head says how."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.detectors.dense.anchor_windows import by_anchor, cut_out
from crosskd.detectors.dense.head import DenseHead, flatten
from crosskd.losses import EPSILON, level_sums, quality_focal, rank_own
from crosskd.spec.config import MimicConfig
from crosskd.spec.registry import BoxMimic
from crosskd.structures import Assignment, Losses, Predictions

SIDES = 4


def mimic(
    name: str, head: DenseHead, ours: Predictions, teacher: Predictions, assignment: Assignment, config: MimicConfig
) -> Losses:
    """The distances in classes, boxes, centerness and objectness that have a weight, `{name}_cls` and so on, each [L].

    Where there is objectness, the teacher's says how much an anchor's class and box are worth imitating: they are
    learnt where there is an object, and mean nothing elsewhere. Both predictions are `head`'s: over its anchors, in
    its box code. `config` has been resolved for the pair.
    """
    assert config.box is not None
    assert config.beta is not None
    with torch.autocast(ours.cls[0].device.type, enabled=False):
        divisor = head.mimic_normaliser(assignment, reference=config.reference_normaliser)
        losses = {}
        there = presence(teacher)
        if config.cls_weight:
            weighed = replace(assignment, label_weights=assignment.label_weights * there)
            classes = mimic_classes(head, ours, teacher, weighed, config.beta, divisor)
            losses[f"{name}_cls"] = config.cls_weight * classes
        if config.box_weight:
            worth = importance(head.best_logits(teacher), assignment) * there
            boxes = mimic_boxes(
                head, ours, teacher, worth, assignment, config.box, temperature=config.temperature, divisor=divisor
            )
            losses[f"{name}_box"] = config.box_weight * boxes
        if config.centerness_weight:
            near = mimic_centerness(head, ours, teacher, assignment, divisor)
            losses[f"{name}_centerness"] = config.centerness_weight * near
        if config.objectness_weight:
            objects = mimic_objectness(ours, teacher, assignment, divisor)
            losses[f"{name}_objectness"] = config.objectness_weight * objects
    return losses


def presence(teacher: Predictions) -> Tensor | float:
    """How likely the teacher sees an object at an anchor, [N, A]: what its class and box are conditional on, or 1."""
    return 1.0 if teacher.objectness is None else flatten(teacher.objectness, 1)[..., 0].detach().sigmoid()


def mimic_classes(
    head: DenseHead, ours: Predictions, teacher: Predictions, assignment: Assignment, beta: float, divisor: Tensor
) -> Tensor:
    """Quality focal loss against the teacher's probabilities over all anchors with a label weight -> [L].

    `divisor` is the head's `mimic_normaliser`, which gives the loss the scale of the detection loss.
    """

    def each(logits: Tensor, window: slice) -> tuple[Tensor]:
        aim = cut_out(teacher.cls, head.num_classes, window).sigmoid()
        return (quality_focal(logits, aim, beta).sum(-1),)

    distance = by_anchor(ours.cls, head.num_classes, each)[0] * assignment.label_weights
    return level_sums(distance, assignment.level_sizes) / (divisor + EPSILON)


def importance(teacher: Tensor, assignment: Assignment) -> Tensor:
    """The teacher's best class probability: what an anchor's box is worth imitating. 0 without a label weight.

    Its best class logits [N, A] -> [N, A].
    """
    return teacher.sigmoid() * (assignment.label_weights > 0)


def mimic_boxes(
    head: DenseHead,
    ours: Predictions,
    teacher: Predictions,
    worth: Tensor,
    assignment: Assignment,
    how: BoxMimic,
    *,
    temperature: float,
    divisor: Tensor,
) -> Tensor:
    """Distance of the boxes, each anchor weighed by `worth` [N, A] -> [L]; both predictions are in `head`'s code.

    By overlap (giou, iou) the sum is divided by `divisor`, as for classes. By `kl` it is the mean over the sides,
    divided by the sum of `worth` over all levels of this rank, as the published results were made.
    """
    distance = level_sums(head.box_distance(ours, teacher, how, temperature) * worth, assignment.level_sizes)
    if how != "kl":
        return distance / (divisor + EPSILON)
    total = rank_own(worth.sum())
    # Nothing to weigh by means nothing to learn: 0, where 0 / 0 would end the run.
    return distance / (SIDES + EPSILON) / total.where(total > 0, total.new_ones(()))


def mimic_centerness(
    head: DenseHead, ours: Predictions, teacher: Predictions, assignment: Assignment, divisor: Tensor
) -> Tensor:
    """Cross entropy with the teacher's centerness over the positives -> [L]."""
    assert ours.centerness is not None
    assert teacher.centerness is not None
    positive = assignment.labels < head.num_classes
    logits, aim = (
        torch.where(positive, flatten(maps, 1)[..., 0], 0.0) for maps in (ours.centerness, teacher.centerness)
    )
    distance = F.binary_cross_entropy_with_logits(logits, aim.detach().sigmoid(), reduction="none") * positive
    return level_sums(distance, assignment.level_sizes) / (divisor + EPSILON)


def mimic_objectness(ours: Predictions, teacher: Predictions, assignment: Assignment, divisor: Tensor) -> Tensor:
    """Cross entropy with the teacher's objectness over all anchors with a label weight -> [L]."""
    assert ours.objectness is not None
    assert teacher.objectness is not None
    logits, aim = flatten(ours.objectness, 1)[..., 0], flatten(teacher.objectness, 1)[..., 0]
    distance = F.binary_cross_entropy_with_logits(logits, aim.detach().sigmoid(), reduction="none")
    return level_sums(distance * assignment.label_weights, assignment.level_sizes) / (divisor + EPSILON)
