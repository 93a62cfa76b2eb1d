"""From bytes to what a network sees, on the device that it is on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from crosskd.spec.config import PixelConfig
from crosskd.structures import Batch


class Normalise:
    """(value - mean) / std channel by channel, in float32; what stands around an image is as `PixelConfig` says."""

    def __init__(self, pixels: PixelConfig, device: torch.device | str = "cpu") -> None:
        self.mean, self.std, self.outside = (
            torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
            for values in (pixels.mean, pixels.std, pixels.outside)
        )

    def batch(self, batch: Batch) -> Batch:
        """One of bytes, on this device, with its images normalised."""
        images = batch.images.to(torch.float32).sub_(self.mean).div_(self.std)
        if any(size != batch.images.shape[-2:] for size in batch.targets.sizes):
            images = torch.where(within(batch.targets.table.sizes, images), images, self.outside)
        return replace(batch, images=images)


def within(sizes: Tensor, images: Tensor) -> Tensor:
    """Sizes [N, 2] of images [N, C, H, W] -> [N, 1, H, W] bool: whether a pixel lies in its image."""
    rows, columns = (torch.arange(n, device=sizes.device) for n in images.shape[-2:])
    return ((rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None]))[:, None]
