"""FGFI: fine-grained feature imitation (arXiv 1906.03609)."""

from __future__ import annotations

import torch

from crosskd.detectors.dense.head import map_sizes
from crosskd.detectors.detector import Detector
from crosskd.distill.maps.cells import near_boxes, squares
from crosskd.distill.maps.features import adapters, pairs
from crosskd.distill.term import MapTerm, Step
from crosskd.losses import rank_own
from crosskd.spec.config import FGFIConfig
from crosskd.structures import Losses


class FGFI(MapTerm):
    """Summed squared differences over channels, where anchors come near an object, by twice the number of such cells.

    The student's maps go through a 3 x 3 convolution per level, also where the widths agree. The paper has one map. On
    a pyramid the best overlap of an object, of which an anchor must have a share, is that with the anchors of all
    levels, as in LD's code (arXiv 2102.12252); and the cells are counted over all levels and images of the batch.
    """

    config: FGFIConfig

    def __init__(self, config: FGFIConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        self.adapt = adapters(student, teacher, always=True, kernel=3)

    def forward(self, step: Step) -> Losses:
        student = step.student
        sizes = map_sizes(student.features)
        masks = near_boxes(student.anchors, step.targets, sizes, student.head.strides, self.config.share)
        with torch.autocast(student.features[0].device.type, enabled=False):
            sums, cells = squares(pairs(step, self.adapt), masks)
            return {"fgfi": self.config.weight * sums / (2 * rank_own(cells.sum(), least=1))}
