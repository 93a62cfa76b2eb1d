"""CrossKD of two-stage detectors, as the authors' branch `faster-rcnn` has it (arXiv 2306.11369)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crosskd.detectors.detector import Detector
from crosskd.detectors.two_stage.head import RegionHead
from crosskd.detectors.two_stage.regions import RegionPredictions, Regions
from crosskd.distill.maps.features import adapters
from crosskd.distill.term import Step, Term
from crosskd.losses import EPSILON, bins_divergence, rank_own
from crosskd.spec.config import CrossKDConfig
from crosskd.structures import Losses

SIDES = 4


def cross(teacher: RegionHead, student_features: Sequence[Tensor], regions: Regions) -> RegionPredictions:
    """What the teacher's region head would say of the student's `regions` on the student's pyramid.

    Nothing is cut inside the head, and no statistics are matched: as the reference does it.
    """
    return teacher.predict(student_features, regions.boxes)


class RegionCrossKD(Term):
    """The teacher's region head on the student's pyramid, against the same head on its own pyramid.

    Both are asked about the student's sampled regions; proposals are not distilled. Where the pyramids have other
    widths, a 1 x 1 convolution per level leads from the one to the other.
    """

    config: CrossKDConfig

    def __init__(self, config: CrossKDConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        self.align = adapters(student, teacher)[: teacher.head.levels]  # no region is of the level above

    def forward(self, step: Step) -> Losses:
        head, regions = step.teacher.head, step.student.regions
        maps = [way(x) for way, x in zip(self.align, step.student.features, strict=False)]
        ours = cross(head, maps, regions)
        with torch.no_grad():
            theirs = head.predict(step.teacher.features, regions.boxes)
        with torch.autocast(maps[0].device.type, enabled=False):
            return mimic_regions(ours, theirs, regions, self.config)


def mimic_regions(
    ours: RegionPredictions, theirs: RegionPredictions, regions: Regions, config: CrossKDConfig
) -> Losses:
    """`crosskd_cls` and `crosskd_box`, those that have a weight, one value each; `theirs` has no gradient.

    Classes: KL divergence of the softmax over all classes and the background at temperature T, times T^2, divided by
    the number of regions, where an image without positives or negatives counts one. Boxes: L1 of the raw deltas of the
    teacher's best class, each region weighed by that class's probability, a weighted mean over regions and sides.
    """
    assert config.class_temperature is not None
    losses: Losses = {}
    if config.cls_weight:
        counts = zip(regions.positives, regions.negatives, strict=True)
        count = float(sum(max(1, positive) + max(1, negative) for positive, negative in counts))
        divergence = bins_divergence(ours.cls, theirs.cls, config.class_temperature).sum()
        losses["crosskd_cls"] = config.cls_weight * divergence / (rank_own(ours.cls.new_tensor(count)) + EPSILON)
    if config.box_weight:
        worth, best = best_classes(theirs)
        distance = (_of_class(ours.box, best) - _of_class(theirs.box, best)).abs().sum(-1)  # [R]
        divisor = rank_own(SIDES * worth.sum()) + EPSILON
        losses["crosskd_box"] = config.box_weight * (worth * distance).sum() / divisor
    return losses


def best_classes(predictions: RegionPredictions) -> tuple[Tensor, Tensor]:
    """Probability and place of each region's best class, the background apart: [R] both."""
    best = predictions.cls.softmax(-1)[:, :-1].max(dim=-1)
    return best.values, best.indices


def _of_class(deltas: Tensor, classes: Tensor) -> Tensor:
    """[R, K, 4] and [R] -> [R, 4]; where all classes share one box, that."""
    place = classes if deltas.shape[1] > 1 else torch.zeros_like(classes)
    return deltas[torch.arange(len(deltas), device=deltas.device), place]
