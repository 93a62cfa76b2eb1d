"""CrossKD: cross-head knowledge distillation (arXiv 2306.11369)."""

from __future__ import annotations

import torch
from torch import Tensor

from crosskd import registry
from crosskd.config import CrossKDConfig
from crosskd.detectors.detector import Detector
from crosskd.detectors.head import DenseHead, flatten
from crosskd.distill.mimic import importance, mimic_classes
from crosskd.distill.statistics import restat
from crosskd.distill.term import Step
from crosskd.errors import ConfigError
from crosskd.structures import Held, Losses, Predictions


def cross(teacher: DenseHead, student_held: Held, teacher_held: Held, cut: int) -> Predictions:
    """What the teacher's head would predict from the student's features.

    The student's maps at the cut take on the teacher's per-channel statistics and go through the ReLU (at cut 0
    there is none) and the rest of the teacher's frozen head. The gradient reaches the student's layers up to the
    cut and none behind it.
    """

    def adapt(ours: list[Tensor], theirs: list[Tensor]) -> list[Tensor]:
        return [restat(s, like=t) for s, t in zip(ours, theirs, strict=True)]

    # Not yet activated, even when the cut is behind the ReLU: the new statistics bring negative values back.
    held = Held(adapt(student_held.cls, teacher_held.cls), adapt(student_held.box, teacher_held.box), activated=False)
    return teacher.back(held, cut)


def choose_cut(config: CrossKDConfig, student: Detector, teacher: Detector) -> int:
    """The configured cut, or the one published for this detector as far as both heads reach."""
    depth = min(student.head.depth, teacher.head.depth)
    if config.cut is None:
        return min(registry.DETECTORS[student.config.detector].cut, depth)
    if config.cut > depth:
        raise ConfigError(
            f"the heads cannot be cut behind convolution {config.cut}: the shorter one has {depth}",
            where="/distill/crosskd/cut",
            remedy=f"Use a cut from 0 to {depth}.",
        )
    return config.cut


class CrossKD:
    """The distance between the cross-head's predictions and the teacher's own, classes and boxes."""

    def __init__(self, config: CrossKDConfig) -> None:
        self.config = config

    def check(self, student: Detector, teacher: Detector) -> None:
        cut = choose_cut(self.config, student, teacher)
        section = "head" if cut else "neck"
        ours, theirs = (getattr(model.config, section).channels for model in (student, teacher))
        if ours != theirs:
            raise ConfigError(
                f"cut behind convolution {cut}, the student's maps have {ours} channels and the teacher's {theirs}",
                where=f"/student/{section}/channels",
                remedy=f"Give the student {theirs} {section} channels.",
            )

    def __call__(self, step: Step) -> Losses:
        config, teacher = self.config, step.teacher
        predictions = cross(teacher.head, step.student.held, teacher.held, step.cut)
        with torch.autocast(predictions.cls[0].device.type, enabled=False):
            logits = flatten(teacher.predictions.cls)
            worth = importance(logits, step.assignment)
            classes = mimic_classes(step.student.head, predictions, logits, step.assignment, config.beta)
            boxes = teacher.head.mimic_boxes(
                predictions, teacher.predictions, worth, step.assignment, config.temperature
            )
        return {"crosskd_cls": config.cls_weight * classes, "crosskd_box": config.box_weight * boxes}
