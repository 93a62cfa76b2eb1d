"""BCKD: bridging the cross-task protocol inconsistency (arXiv 2308.14286)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from crosskd.detectors.dense.anchor_windows import by_anchor, cut_out
from crosskd.detectors.dense.head import DenseHead, flatten
from crosskd.distill.mimic import mimic_boxes, mimic_classes, presence
from crosskd.distill.term import Step, Term
from crosskd.losses import EPSILON, level_sums, quality_focal
from crosskd.spec.config import BCKDConfig
from crosskd.structures import Losses, Predictions

BETA = 1.0  # the exponent of |p_t - p_s|, as published


class BCKD(Term):
    """Each class is a map of its own, told apart by a sigmoid; what is learnt most is where both models differ.

    Classes: the sum over anchors and classes of |p_t - p_s| * BCE(p_s, p_t). Boxes: the sum over anchors of
    max_k |p_t - p_s| * (1 - GIoU), the weight a constant. Both are divided by what the detector's class loss is
    divided by; for GFL, that is the number of positives. Formulas and weights are those of the authors' code for GFL.
    That code leaves out the levels on which no anchor of the batch is positive. The paper's sums are over all anchors,
    and so are these.

    Nobody has published it for a detector with objectness. There the objectness is one more binary map, and the
    teacher's says how much an anchor's classes and box count, as it does in CrossKD's losses here.
    """

    config: BCKDConfig

    def forward(self, step: Step) -> Losses:
        head, assignment = step.student.head, step.student.assignment
        ours, theirs = step.student.predictions, step.teacher.predictions
        with torch.autocast(ours.cls[0].device.type, enabled=False):
            divisor, there = head.normaliser(assignment), presence(theirs)
            weighed = replace(assignment, label_weights=assignment.label_weights * there)
            classes = mimic_classes(head, ours, theirs, weighed, BETA, divisor)
            if ours.objectness is not None:
                assert theirs.objectness is not None
                logits, aims = (flatten(maps, 1)[..., 0] for maps in (ours.objectness, theirs.objectness))
                objects = quality_focal(logits, aims.sigmoid(), BETA) * assignment.label_weights
                classes = classes + level_sums(objects, assignment.level_sizes) / (divisor + EPSILON)
            worth = disagreement(head, ours, theirs) * weighed.label_weights
            boxes = mimic_boxes(head, ours, theirs, worth, assignment, "giou", temperature=1.0, divisor=divisor)
        return {"bckd_cls": self.config.cls_weight * classes, "bckd_box": self.config.box_weight * boxes}


@torch.no_grad()
def disagreement(head: DenseHead, ours: Predictions, theirs: Predictions) -> Tensor:
    """How far both are apart in the class of an anchor in which they are furthest apart, 0..1: [N, A]."""

    def each(logits: Tensor, window: slice) -> tuple[Tensor]:
        aim = cut_out(theirs.cls, head.num_classes, window)
        return ((logits.sigmoid() - aim.sigmoid()).abs().amax(-1),)

    return by_anchor(ours.cls, head.num_classes, each)[0]
