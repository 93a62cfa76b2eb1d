"""CWD: channel-wise distillation (arXiv 2011.13256)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.detectors.detector import Detector
from crosskd.distill.maps.features import adapters, image_mean, pairs
from crosskd.distill.term import MapTerm, Step
from crosskd.spec.config import CWDConfig
from crosskd.structures import Losses


class CWD(MapTerm):
    """KL divergence of where in the map each channel is active: softmax over the cells, mean over channels.

    The maps behind the first `levels` are left out, and their loss is 0.
    """

    config: CWDConfig

    def __init__(self, config: CWDConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        self.align = adapters(student, teacher)[: config.levels]

    def forward(self, step: Step) -> Losses:
        assert self.config.weight is not None
        maps = step.student.features
        with torch.autocast(maps[0].device.type, enabled=False):
            levels = [self._divergence(ours, theirs) for ours, theirs in pairs(step, self.align)]
            levels += [levels[0].new_zeros(())] * (len(maps) - len(levels))
            return {"cwd": self.config.weight * image_mean(torch.stack(levels), images=len(maps[0]))}

    def _divergence(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """[N, C, H, W] both -> [], summed over images; times T^2, so that T leaves the gradient its size."""
        temperature = self.config.temperature
        assert temperature is not None
        log_p, log_q = (F.log_softmax(x.flatten(2) / temperature, dim=-1) for x in (ours, theirs))
        return F.kl_div(log_p, log_q, reduction="sum", log_target=True) * temperature**2 / ours.shape[1]
