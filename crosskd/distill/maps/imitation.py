"""Feature imitation in the main region, or inside the boxes: what LD is compared with (arXiv 2102.12252, table 7)."""

from __future__ import annotations

import torch

from crosskd.detectors.dense.head import map_sizes
from crosskd.detectors.detector import Detector
from crosskd.distill.maps.cells import inside_boxes, positive_cells, squares
from crosskd.distill.maps.features import adapters, pairs
from crosskd.distill.term import MapTerm, Step
from crosskd.losses import rank_own
from crosskd.spec.config import ImitationConfig
from crosskd.structures import Losses


class Imitation(MapTerm):
    """Mean squared error over a region's cells and channels, of each level by itself; 0 where a level has none.

    The mean and the weight are those of the authors' code for GFL. Where the widths agree there is no adapter. That
    code leaves out the levels on which no anchor of the batch is positive, also where there are cells in a box: the
    paper says nothing of it, and it is not done here. The paper's text, which names both regions, could not be read
    again; of them the code has that inside the boxes, and the main region is LD's own, the positive anchors.
    """

    config: ImitationConfig

    def __init__(self, config: ImitationConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        self.align = adapters(student, teacher)

    def forward(self, step: Step) -> Losses:
        student = step.student
        sizes, channels = map_sizes(student.features), step.teacher.features[0].shape[1]
        if self.config.region == "main":
            masks = positive_cells(student.assignment, sizes, student.head.num_classes)
        else:
            masks = inside_boxes(step.targets, sizes, student.head.strides)
        with torch.autocast(student.features[0].device.type, enabled=False):
            sums, cells = squares(pairs(step, self.align), masks)
            return {"imitation": self.config.weight * sums / rank_own(cells * channels, least=1)}
