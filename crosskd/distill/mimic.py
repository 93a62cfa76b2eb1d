"""Dense predictions that imitate the teacher's, whichever head they come from."""

from __future__ import annotations

from torch import Tensor

from crosskd.detectors.head import DenseHead, flatten
from crosskd.losses import EPSILON, level_sums, quality_focal
from crosskd.structures import Assignment, Predictions


def mimic_classes(
    head: DenseHead, predictions: Predictions, teacher: Tensor, assignment: Assignment, beta: float
) -> Tensor:
    """Quality focal loss against the teacher's probabilities over all anchors that are not padding -> [L].

    `teacher` holds its class logits, flattened: [N, A, K]. Divided by the number of positives (see
    `DenseHead.normaliser`), so that it has the scale of the detection loss.
    """
    distance = quality_focal(flatten(predictions.cls), teacher.sigmoid(), beta).sum(-1) * assignment.label_weights
    return level_sums(distance, assignment.level_sizes) / (head.normaliser(assignment) + EPSILON)


def importance(teacher: Tensor, assignment: Assignment) -> Tensor:
    """The teacher's best class probability, 0 in the padding: what an anchor's box is worth imitating.

    Its class logits [N, A, K] -> [N, A].
    """
    best = teacher.amax(-1).sigmoid()
    return best * (assignment.label_weights > 0)
