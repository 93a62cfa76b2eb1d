"""Dense predictions that imitate the teacher's, whichever head they come from."""

from __future__ import annotations

from torch import Tensor

from crosskd.detectors.head import DenseHead, flatten
from crosskd.losses import EPSILON, level_sums, quality_focal
from crosskd.structures import Assignment, Predictions


def mimic_classes(
    head: DenseHead, predictions: Predictions, teacher: Predictions, assignment: Assignment, beta: float
) -> Tensor:
    """Quality focal loss against the teacher's probabilities over all anchors that are not padding -> [L].

    Divided by the number of positives (see `DenseHead.normaliser`), so that it has the scale of the detection loss.
    """
    target = flatten(teacher.cls).sigmoid()  # [N, A, K]
    distance = quality_focal(flatten(predictions.cls), target, beta).sum(-1) * assignment.label_weights
    return level_sums(distance, assignment.level_sizes) / (head.normaliser(assignment) + EPSILON)


def importance(teacher: Predictions, assignment: Assignment) -> Tensor:
    """[N, A]: the teacher's best class probability, 0 in the padding: what an anchor's box is worth imitating."""
    best = flatten(teacher.cls).amax(-1).sigmoid()
    return best * (assignment.label_weights > 0)
