"""SKD: structural similarity of feature maps (arXiv 2211.13133)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.detectors.detector import Detector
from crosskd.distill.maps.features import adapters, pairs
from crosskd.distill.statistics import overall_mean
from crosskd.distill.term import MapTerm, Step
from crosskd.spec.config import SKDConfig
from crosskd.structures import Losses

SIDE, DEVIATION = 11, 1.5  # of the Gaussian window, in cells
MEAN_FLOOR, VARIANCE_FLOOR = 0.01**2, 0.03**2  # C1 and C2 of values within 0..1
SMALLEST_RANGE = 1e-6


class SKD(MapTerm):
    """(1 - SSIM) / 2 of each cell and channel, mean over them: SSIM compares means, contrast and structure around it.

    The student's maps go through a 1 x 1 convolution per level, also where the widths agree. Both are brought to 0..1
    before: by the least and the greatest value of an image's map, all channels together. What is beyond a border is
    its mirror image.
    """

    config: SKDConfig

    def __init__(self, config: SKDConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        self.align = adapters(student, teacher, always=True)

    def forward(self, step: Step) -> Losses:
        with torch.autocast(step.student.features[0].device.type, enabled=False):
            levels = [
                overall_mean(1 - structural_similarity(to_unit_range(ours), to_unit_range(theirs))) / 2
                for ours, theirs in pairs(step, self.align)
            ]
            return {"skd": self.config.weight * torch.stack(levels)}


def to_unit_range(x: Tensor) -> Tensor:
    """[N, C, H, W] -> 0..1 in each image; a map without any range becomes 0."""
    low, high = x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
    return (x - low) / (high - low).clamp_min(SMALLEST_RANGE)


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """SSIM around each cell, -1..1: [N, C, H, W] of values 0..1 both -> [N, C, H, W]."""
    mean_a, mean_b, square_a, square_b, product = _blurred(torch.cat((a, b, a * a, b * b, a * b))).chunk(5)
    means = mean_a * mean_b
    variances = (square_a - mean_a.square()) + (square_b - mean_b.square())
    covariance = product - means
    likeness = (2 * means + MEAN_FLOOR) * (2 * covariance + VARIANCE_FLOOR)
    return likeness / ((mean_a.square() + mean_b.square() + MEAN_FLOOR) * (variances + VARIANCE_FLOOR))


def _blurred(x: Tensor) -> Tensor:
    """The Gaussian mean around each cell of [N, C, H, W]."""
    height, width = x.shape[-2:]
    offsets = torch.arange(SIDE, dtype=x.dtype, device=x.device) - SIDE // 2
    weights = torch.softmax(-(offsets.square()) / (2 * DEVIATION**2), dim=0)
    rows, columns = _mirrored(height, x.device), _mirrored(width, x.device)
    single = x.reshape(-1, 1, height, width)  # every channel by itself
    single = F.conv2d(single.index_select(2, rows), weights.reshape(1, 1, -1, 1))
    return F.conv2d(single.index_select(3, columns), weights.reshape(1, 1, 1, -1)).reshape(x.shape)


def _mirrored(count: int, device: torch.device) -> Tensor:
    """Which cell stands at each place of a row that is continued by half a window: [count + SIDE - 1].

    The cell at the border is not repeated; a row that is shorter than half a window is mirrored more than once.
    """
    places = torch.arange(-(SIDE // 2), count + SIDE // 2, device=device)
    period = max(1, 2 * (count - 1))
    places = places.remainder(period)
    return torch.minimum(places, period - places) if count > 1 else places
