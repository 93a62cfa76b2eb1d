"""Images normalised for the student, as the teacher was trained to see them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosskd.data.normalise import within
from crosskd.detectors.detector import Detector
from crosskd.spec.config import PixelConfig, PostprocessConfig
from crosskd.structures import Detections, Size


class Renormalise(nn.Module):
    """From one `PixelConfig` to another: [N, 3, H, W] -> [N, 3, H, W]; the very same tensor where the two agree.

    Outside each image's (height, width) the batch is then what the second pads with.
    """

    def __init__(self, given: PixelConfig, wanted: PixelConfig) -> None:
        super().__init__()
        self.same = given == wanted
        self.flip = given.order != wanted.order
        order = [2, 1, 0] if self.flip else [0, 1, 2]
        mean, std = (torch.tensor(values, dtype=torch.float64)[order] for values in (given.mean, given.std))
        scale = std / torch.tensor(wanted.std, dtype=torch.float64)
        shift = (mean - torch.tensor(wanted.mean, dtype=torch.float64)) / torch.tensor(wanted.std, dtype=torch.float64)
        self.scale: Tensor
        self.shift: Tensor
        # Not of the student's making: in no checkpoint, but moved with the module.
        self.register_buffer("scale", scale.float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(1, 3, 1, 1), persistent=False)
        self.outside: Tensor
        self.register_buffer("outside", torch.tensor(wanted.outside).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """`sizes` [N, 2], beside the images: (height, width) of each."""
        if self.same:
            return images
        source = images.flip(1) if self.flip else images
        out = torch.addcmul(self.shift, source, self.scale)
        return torch.where(within(sizes, images), out, self.outside)


class RenormalisedDetector(nn.Module):
    """A detector that is handed images normalised for another one; for its evaluation on the other's batches."""

    def __init__(self, detector: Detector, given: PixelConfig) -> None:
        super().__init__()
        self.detector = detector
        place = next(detector.parameters())  # made where the detector already is: nobody moves this one
        self.renormalise = Renormalise(given, detector.config.pixels).to(place.device)
        self.train(detector.training)  # or whoever puts back the mode that was found would put it into training

    @property
    def num_classes(self) -> int:
        return self.detector.num_classes

    @property
    def max_detections(self) -> int:
        return self.detector.max_detections

    def detect(
        self, images: Tensor, sizes: Sequence[Size], postprocess: PostprocessConfig | None = None
    ) -> list[Detections]:
        """As `Detector.detect`."""
        own = torch.tensor(sizes, device=images.device)
        return self.detector.detect(self.renormalise(images, own), sizes, postprocess)
