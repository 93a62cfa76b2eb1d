"""PKD: distillation of feature maps by their Pearson correlation (arXiv 2207.02039)."""

from __future__ import annotations

import torch

from crosskd.config import PKDConfig
from crosskd.detectors.detector import Detector
from crosskd.distill.statistics import normalise
from crosskd.distill.term import Step
from crosskd.errors import ConfigError
from crosskd.structures import Losses


class PKD:
    """Half the mean squared difference of both pyramids' maps, each channel normalised to mean 0, deviation 1."""

    def __init__(self, config: PKDConfig) -> None:
        self.config = config

    def check(self, student: Detector, teacher: Detector) -> None:
        ours, theirs = student.config.neck.channels, teacher.config.neck.channels
        if ours != theirs:
            raise ConfigError(
                f"PKD compares feature maps channel by channel: the student has {ours}, the teacher {theirs}",
                where="/student/neck/channels",
                remedy=f"Give the student {theirs} neck channels, or leave pkd out.",
            )

    def __call__(self, step: Step) -> Losses:
        with torch.autocast(step.student.features[0].device.type, enabled=False):
            levels = [
                (normalise(ours) - normalise(theirs)).square().mean() / 2
                for ours, theirs in zip(step.student.features, step.teacher.features, strict=True)
            ]
            return {"pkd": self.config.weight * torch.stack(levels)}
