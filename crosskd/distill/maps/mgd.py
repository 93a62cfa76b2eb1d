"""MGD: masked generative distillation (arXiv 2205.01529)."""

from __future__ import annotations

import torch
from torch import nn

from crosskd.detectors.detector import Detector
from crosskd.distill.maps.features import adapters, image_mean, pairs
from crosskd.distill.term import MapTerm, Step
from crosskd.spec.config import MGDConfig
from crosskd.structures import Losses


class MGD(MapTerm):
    """Squared difference between the teacher's maps and those made from the student's, summed over an image.

    In each step a random share of the cells is blanked, alike in all channels; two convolutions per level then
    generate the whole map from the rest. The masks come from torch's generator of the maps' device, which a
    checkpoint holds.
    """

    config: MGDConfig

    def __init__(self, config: MGDConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        self.align = adapters(student, teacher)
        channels = teacher.config.neck.channels
        self.generate = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, kernel_size=3, padding=1),
                nn.ReLU(inplace=True),  # on the convolution's own output, which nobody else reads
                nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            )
            for _ in student.config.strides
        )

    def forward(self, step: Step) -> Losses:
        levels = []
        with torch.autocast(step.student.features[0].device.type, enabled=False):
            for (ours, theirs), generate in zip(pairs(step, self.align), self.generate, strict=True):
                images, _, height, width = ours.shape
                kept = torch.rand(images, 1, height, width, device=ours.device) >= self.config.masked
                levels.append((generate(ours * kept) - theirs).square().sum())
            return {"mgd": self.config.weight * image_mean(torch.stack(levels), images=len(step.student.features[0]))}
