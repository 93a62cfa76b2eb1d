"""From a stored image to a batch: resize, colour, flip, pad. Pixels stay 8-bit until the batch is on its device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from crosskd.data.coco import Example
from crosskd.data.colour import recoloured
from crosskd.data.normalise import Normalise
from crosskd.spec.config import AugmentConfig, PixelConfig
from crosskd.spec.data.image_size import fitted as fitted
from crosskd.spec.data.image_size import padded as padded
from crosskd.spec.evaluate_export import image_settings
from crosskd.structures import Batch, Shown, Size, Targets


@dataclass(frozen=True)
class Sample:
    """One image at the network's scale."""

    pixels: NDArray[np.uint8]  # [h, w, 3] RGB
    boxes: NDArray[np.float32]  # [G, 4] x1 y1 x2 y2
    labels: NDArray[np.int64]  # [G]
    image_id: int
    scale: tuple[float, float]  # (x, y): network pixels per original pixel
    original_size: Size
    mirrored: bool = False  # left to right

    @property
    def size(self) -> Size:
        height, width = self.pixels.shape[:2]
        return height, width

    @property
    def shown(self) -> Shown:
        """By the pixels themselves: whatever file, decoder, size or setting they come of."""
        upright = self.pixels[:, ::-1] if self.mirrored else self.pixels
        seen = hashlib.sha256(repr(self.size).encode())
        seen.update(np.ascontiguousarray(upright).data)
        return Shown(seen.hexdigest(), self.mirrored)


def training_sample(
    example: Example, config: AugmentConfig, rng: np.random.Generator, *, short_edge: int | None = None
) -> Sample:
    """Resized to a short edge drawn anew, and `varied`. Draws the same numbers whatever the image holds.

    `short_edge` is that of the whole batch, where one was drawn for it.
    """
    drawn = config.short_edges[int(rng.integers(len(config.short_edges)))]
    short_edge = short_edge or drawn
    return varied(_fitted(example, short_edge, config), config, rng)


def varied(sample: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """Flipped or not, and of other colours where these change."""
    flips = bool(rng.random() < config.flip)
    if config.hsv is not None:
        sample = replace(sample, pixels=recoloured(sample.pixels, config.hsv, rng))
    return flipped(sample) if flips else sample


def validation_edge(config: AugmentConfig) -> int:
    """The short edge at which the model is evaluated."""
    return config.val_short_edge or max(config.short_edges)


def recorded_scale(config: AugmentConfig) -> str:
    """The scale of the evaluation, and how images are read, as JSON, for the metadata of a weights file."""
    scale = {"val_short_edge": validation_edge(config), "long_edge": config.long_edge, "pad_to": config.pad_to}
    stretched = {} if config.keep_ratio else {"keep_ratio": False}
    return json.dumps(scale | stretched | image_settings(config.model_dump()))


def validation_sample(example: Example, config: AugmentConfig) -> Sample:
    """Resized to the one scale of the evaluation."""
    return _fitted(example, validation_edge(config), config)


def collate(samples: Sequence[Sample], pixels: PixelConfig, multiple: int) -> Batch:
    """Images, normalised, in one tensor [N, 3, H, W], padded as `pixels` says; H and W multiples of `multiple`."""
    return Normalise(pixels).batch(stacked(samples, pixels, multiple))


def stacked(
    samples: Sequence[Sample], pixels: PixelConfig, multiple: int, *, unlabelled: int = 0, shown: bool = False
) -> Batch:
    """The same in bytes, 0 where padded: channels in the order of `pixels`, not yet normalised.

    The last `unlabelled` of the samples have no ground truth. `shown`: the targets are to say what is to be seen.
    """
    steps = [padded(sample.size, multiple) for sample in samples]
    height, width = max(h for h, _ in steps), max(w for _, w in steps)
    images = np.zeros((len(samples), 3, height, width), dtype=np.uint8)
    channels = slice(None) if pixels.order == "rgb" else slice(None, None, -1)
    for image, sample in zip(images, samples, strict=True):
        image[:, : sample.size[0], : sample.size[1]] = sample.pixels[:, :, channels].transpose(2, 0, 1)
    targets = Targets(
        boxes=[torch.from_numpy(sample.boxes) for sample in samples],
        labels=[torch.from_numpy(sample.labels) for sample in samples],
        sizes=[sample.size for sample in samples],
        padded=steps,
        unlabelled=unlabelled,
        shown=[sample.shown for sample in samples] if shown else None,
    )
    return Batch(
        images=torch.from_numpy(images),
        targets=targets,
        image_ids=[sample.image_id for sample in samples],
        scales=[sample.scale for sample in samples],
        original_sizes=[sample.original_size for sample in samples],
    )


def _fitted(example: Example, short_edge: int, config: AugmentConfig) -> Sample:
    original = (example.image.height, example.image.width)
    size = fitted(original, short_edge, config.long_edge, keep_ratio=config.keep_ratio)
    return resized(example, size, config.antialias)


def resized(example: Example, size: Size, antialias: bool | None) -> Sample:
    """An image at `size` (height, width), with its boxes."""
    original = (example.image.height, example.image.width)
    height, width = size
    if size == original:
        pixels = np.asarray(example.image)
    elif antialias is False:
        pixels = plain_bilinear(example.image, size)
    else:
        pixels = np.asarray(example.image.resize((width, height), Image.Resampling.BILINEAR))
    scale = (width / original[1], height / original[0])
    boxes = example.boxes * np.array([*scale, *scale], dtype=np.float32)
    return Sample(pixels, boxes, example.labels, example.image_id, scale, original)


def plain_bilinear(image: Image.Image, size: Size) -> NDArray[np.uint8]:
    """An RGB image at `size` (height, width) as [h, w, 3], each pixel out of the four around its place in the image.

    So OpenCV resizes for MMDetection, and torchvision's detectors do, up to the rounding of a value. Pillow has
    `resize` with antialiasing alone, and its `transform` cuts values off instead of rounding them.
    """
    source = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(source, size, mode="bilinear", align_corners=False)
    pixels: NDArray[np.uint8] = resized[0].permute(1, 2, 0).contiguous().numpy()
    return pixels


def flipped(sample: Sample) -> Sample:
    """Mirrored left to right. The pixels are a view."""
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = sample.size[1] - sample.boxes[:, [2, 0]]
    return replace(sample, pixels=sample.pixels[:, ::-1], boxes=boxes, mirrored=not sample.mirrored)
