"""FitNets: hints from the teacher's feature maps (arXiv 1412.6550), here from those of the pyramid."""

from __future__ import annotations

import torch

from crosskd.detectors.detector import Detector
from crosskd.distill.maps.features import adapters, pairs
from crosskd.distill.statistics import overall_mean
from crosskd.distill.term import MapTerm, Step
from crosskd.spec.config import FitNetConfig
from crosskd.structures import Losses


class FitNet(MapTerm):
    """Half the mean squared difference between the teacher's maps and the student's behind a regressor.

    The regressor is a 1 x 1 convolution per level, also where the widths agree.
    """

    config: FitNetConfig

    def __init__(self, config: FitNetConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        self.regressors = adapters(student, teacher, always=True)

    def forward(self, step: Step) -> Losses:
        with torch.autocast(step.student.features[0].device.type, enabled=False):
            levels = [overall_mean((ours - theirs).square()) / 2 for ours, theirs in pairs(step, self.regressors)]
            return {"fitnet": self.config.weight * torch.stack(levels)}
