"""PKD: distillation of feature maps by their Pearson correlation (arXiv 2207.02039)."""

from __future__ import annotations

import torch

from crosskd.distill.statistics import normalise, overall_mean
from crosskd.distill.term import Step, Term
from crosskd.spec.config import PKDConfig
from crosskd.structures import Losses


class PKD(Term):
    """Half the mean squared difference of both pyramids' maps, each channel normalised to mean 0, deviation 1.

    The maps behind the first `levels` are left out, and their loss is 0.
    """

    config: PKDConfig

    def forward(self, step: Step) -> Losses:
        assert self.config.weight is not None
        maps = list(zip(step.student.features, step.teacher.features, strict=True))
        with torch.autocast(maps[0][0].device.type, enabled=False):
            levels = [
                overall_mean((normalise(ours) - normalise(theirs)).square()) / 2
                for ours, theirs in maps[: self.config.levels]
            ]
            levels += [levels[0].new_zeros(())] * (len(maps) - len(levels))
            return {"pkd": self.config.weight * torch.stack(levels)}
