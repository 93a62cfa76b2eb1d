"""What every exported detector has: pixels as in the training at one end, rows of a fixed number at the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.detectors.detector import Detector
from crosskd.spec.config import PostprocessConfig

INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "labels", "counts")
CELLS = "cells"  # inside the graph: where queries begin
NOBODY = -1  # the label of a row behind the last detection
TINY = 1e-37  # a score that has become 0 by rounding, and is one all the same


class Pipeline(nn.Module, ABC):
    """What `Detector.detect` does, in shapes that depend on the number and size of the images and not on their pixels.

    Images [N, 3, H, W], RGB, 0..255, and their sizes [N, 2] (height, width; what lies beyond is padding, whatever it
    holds) -> boxes [N, D, 4] in pixels of the input, clipped to the sizes (YOLOX's are not); scores [N, D] in
    descending order; labels [N, D]; counts [N]. D is `max_detections`. The rows behind an image's count are 0, with the
    label -1.
    """

    mean: Tensor
    std: Tensor
    outside: Tensor | float

    def __init__(self, detector: Detector, postprocess: PostprocessConfig) -> None:
        super().__init__()
        self.detector, self.postprocess = detector, postprocess
        pixels = detector.config.pixels
        self.channels = [0, 1, 2] if pixels.order == "rgb" else [2, 1, 0]
        self.register_buffer("mean", torch.tensor(pixels.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(pixels.std)[:, None, None])
        if pixels.padding is not None:
            self.register_buffer("outside", torch.tensor(pixels.outside)[:, None, None])
        else:
            self.outside = 0.0

    @abstractmethod
    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class."""

    def complete(self, model: Any) -> None:
        """Add to the traced `model`, one of onnx_ir, what a trace does not say."""

    def _normalised(self, images: Tensor, sizes: Tensor) -> Tensor:
        """As in the training, also where padded."""
        images = (images[:, self.channels] - self.mean) / self.std
        rows = torch.arange(images.shape[2])[:, None] < sizes[:, 0, None, None]  # [N, H, 1]
        columns = torch.arange(images.shape[3]) < sizes[:, 1, None, None]  # [N, 1, W]
        return torch.where((rows & columns)[:, None], images, self.outside)

    def _packed(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The `max_detections` best of boxes [N, P, 4] with scores and labels [N, P]; score 0: there is none."""
        keep = self.postprocess.max_detections
        scores, row = F.pad(scores, (0, keep)).topk(keep, dim=1)
        there = scores > 0
        row = torch.where(there, row, 0)
        boxes = boxes.gather(1, row[..., None].expand(-1, -1, 4))
        return (
            torch.where(there[..., None], boxes, 0.0),
            scores,
            torch.where(there, labels.gather(1, row), NOBODY),
            there.sum(dim=1),
        )


def clipped(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [N, P, 4] inside their images, sizes [N, 2]."""
    limits = sizes.flip(1).to(boxes.dtype).repeat(1, 2)[:, None]  # [N, 1, 4] width, height, width, height
    return torch.minimum(boxes.clamp(min=0), limits)
