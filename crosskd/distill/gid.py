"""GID: general instance distillation (arXiv 2103.02340)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.boxes.ops import overlap_loss
from crosskd.detectors.dense.anchor_windows import by_anchor, cut_out, gather
from crosskd.detectors.dense.head import map_sizes
from crosskd.detectors.dense.positives import Positives
from crosskd.detectors.detector import Detector
from crosskd.detectors.pooling import pool_regions
from crosskd.distill.instances import Instances, general_instances
from crosskd.distill.maps.features import adapters, image_mean, pairs
from crosskd.distill.term import Step, Term
from crosskd.losses import EPSILON, rank_own
from crosskd.spec.config import GIDConfig
from crosskd.structures import Losses, Predictions, Targets

SIDE, SAMPLES = 10, 2  # cells of an instance's maps, and points a cell and direction


class GID(Term):
    """What both models make of the instances of an image on which they differ most, whatever the ground truth says.

    Features: the summed squared difference of their maps, 10 x 10 cells by RoIAlign, mean over instances. Relations:
    smooth L1 of the distances between these maps, each divided by their mean, mean over pairs of one image.
    Predictions: the instances are assigned to anchors as ground truth would be; there cross entropy with the teacher's
    probabilities and 1 - GIoU with its boxes, mean over these anchors. The student's maps go through a 3 x 3
    convolution per level. The first two are means over images and have no levels.

    The paper's text could not be read again. The instances are as in LD's code (arXiv 2102.12252), but of all levels
    together, as in a port to detectron2 whose candidates, pooling and mean over pairs these are. The paper takes the
    detector's own losses for predictions; those here are the same for every detector.
    """

    config: GIDConfig

    def __init__(self, config: GIDConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        self.adapt = adapters(student, teacher, always=True, kernel=3)

    def forward(self, step: Step) -> Losses:
        config, student = self.config, step.student
        with torch.autocast(student.features[0].device.type, enabled=False):
            found = general_instances(
                student.head,
                student.predictions,
                step.teacher.predictions,
                step.targets.sizes,
                keep=config.instances,
                nms_iou=config.nms_iou,
            )
            features, relations = self._maps(step, found)
            classes, boxes = _predictions(step, found)
        return {
            "gid_feature": config.feature_weight * features,
            "gid_relation": config.relation_weight * relations,
            "gid_cls": config.cls_weight * classes,
            "gid_box": config.box_weight * boxes,
        }

    def _maps(self, step: Step, found: Sequence[Instances]) -> tuple[Tensor, Tensor]:
        """The losses of features and relations, [] each."""
        boxes, counts = [instances.boxes for instances in found], [len(instances.boxes) for instances in found]
        ours, theirs = (
            pool_regions(maps, boxes, step.student.head.strides, side=SIDE, sampling_ratio=SAMPLES, aligned=True)
            for maps in zip(*pairs(step, self.adapt), strict=True)
        )
        features, relations = [], []
        for mine, wanted in zip(*(torch.split(maps.flatten(1), counts) for maps in (ours, theirs)), strict=True):
            features.append((mine - wanted).square().sum() / max(1, len(mine)))
            near, aim = distances(mine), distances(wanted)
            relations.append(F.smooth_l1_loss(near, aim, reduction="sum") / max(1, len(near)))
        total = torch.stack((torch.stack(features).sum(), torch.stack(relations).sum()))
        mean = image_mean(total, images=len(found))
        return mean[0], mean[1]


def distances(x: Tensor) -> Tensor:
    """[K, D] -> [K * (K - 1) / 2]: between each two rows, in their mean."""
    apart = F.pdist(x)
    return apart / (apart.sum() / max(1, len(apart))).clamp(min=EPSILON)


def _predictions(step: Step, found: Sequence[Instances]) -> tuple[Tensor, Tensor]:
    """The losses of classes and boxes, [L] each."""
    head, ours, theirs = step.student.head, step.student.predictions, step.teacher.predictions
    boxes, labels = [instances.boxes for instances in found], [instances.labels for instances in found]
    with torch.no_grad():
        assignment = head.assign(ours, Targets(boxes, labels, step.targets.sizes, step.targets.padded))
    codes = [head.codes(predictions) for predictions in (ours, theirs)]
    there = Positives.of(assignment, head.anchors(map_sizes(ours.cls), codes[0]), head.num_classes)
    entropy = _entropy(ours, theirs, there, head.num_classes)
    mine, wanted = (head.decode(there.gather(code), there.anchors) for code in codes)
    divisor = rank_own(there.there.sum().to(entropy.dtype), least=1)
    return (
        there.level_sums(entropy, assignment) / divisor,
        there.level_sums(overlap_loss(mine, wanted, "giou"), assignment) / divisor,
    )


def _entropy(ours: Predictions, theirs: Predictions, there: Positives, classes: int) -> Tensor:
    """Cross entropy with the teacher's probabilities, summed over the classes, [P]."""

    def each(logits: Tensor, window: slice) -> tuple[Tensor]:
        return (_apart(logits, cut_out(theirs.cls, classes, window)),)

    if there.index is None:  # all anchors have a place: not all their logits at once
        return there.gather(by_anchor(ours.cls, classes, each)[0])
    return _apart(*(gather(said.cls, classes, there.image, there.anchor) for said in (ours, theirs)))


def _apart(logits: Tensor, aims: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, aims.sigmoid(), reduction="none").sum(-1)
