"""DeFeat: decoupled features (arXiv 2103.14475)."""

from __future__ import annotations

import torch

from crosskd.detectors.dense.head import map_sizes
from crosskd.detectors.detector import Detector
from crosskd.distill.maps.cells import boxes_by_size, squares
from crosskd.distill.maps.features import adapters, pairs
from crosskd.distill.term import MapTerm, Step
from crosskd.losses import rank_own
from crosskd.spec.config import DeFeatConfig
from crosskd.structures import Losses


class DeFeat(MapTerm):
    """Half the mean squared difference in the boxes of a level's size, and outside, each with a weight of its own.

    The mean is over cells and channels of each level, and then over levels. The student's maps go through a 3 x 3
    convolution per level, also where the widths agree. All as in the authors' code. What the paper does besides for
    detectors of two stages, with the proposals in boxes and outside, is not here.
    """

    config: DeFeatConfig

    def __init__(self, config: DeFeatConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        self.adapt = adapters(student, teacher, always=True, kernel=3)

    def forward(self, step: Step) -> Losses:
        maps, channels = step.student.features, step.teacher.features[0].shape[1]
        foreground = boxes_by_size(step.targets, map_sizes(maps), step.student.head.strides)
        parts = {
            "defeat_foreground": (self.config.foreground_weight, foreground),
            "defeat_background": (self.config.background_weight, [~mask for mask in foreground]),
        }
        losses = {}
        with torch.autocast(maps[0].device.type, enabled=False):
            both = list(pairs(step, self.adapt))
            for name, (weight, masks) in parts.items():
                sums, cells = squares(both, masks)
                losses[name] = weight / len(maps) * sums / rank_own(2 * channels * cells, least=1)
        return losses
