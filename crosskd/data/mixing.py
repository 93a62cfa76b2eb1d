"""Training images in letterboxes, put together from several: mosaic, what is shown of it, changes of colour, MixUp.

Which images come together, and how, depends on the seed, the epoch, the image and its batch, and on nothing else: not
on loader processes, on ranks, or on what was loaded before. So RTMDet's caches, which hold whatever a process
happened to load last, are the image's own batch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from crosskd.data.coco import Example
from crosskd.data.squares import (
    Canvas,
    affine_matrix,
    blank,
    cropped,
    fill_of,
    fit,
    mapped,
    moved,
    paste,
    visible,
)
from crosskd.data.transforms import Sample, flipped, varied
from crosskd.spec.config import AugmentConfig, MixUpConfig, MosaicConfig, PixelConfig


@dataclass(frozen=True)
class Key:
    """An image of a batch. All the randomness of a sample comes from the seed and from this."""

    epoch: int  # of an image without labels: which pass over all of these it is
    index: int  # in its own data set
    unlabelled: bool = False

    def random(self, seed: int) -> np.random.Generator:
        return np.random.default_rng([seed, 1, self.epoch, self.index, *([1] if self.unlabelled else [])])


Knobs = TypeVar("Knobs", MosaicConfig, MixUpConfig)


@dataclass(frozen=True)
class Mixed:
    """A batch of images, to be padded to one square."""

    samples: list[Sample]
    side: int  # of the square, in pixels; no image is larger
    boxes: int  # of all the images that went in, as often as they did
    left_out: int  # of these: they lie outside what is shown, or less than a pixel of them is left


def mixed_batch(
    keys: Sequence[Key],
    read: Callable[[int], Example],
    *,
    images: int,
    config: AugmentConfig,
    pixels: PixelConfig,
    seed: int,
    epochs: int,
    beside: Key | None = None,
) -> Mixed:
    """The samples of a batch of a split of `images` images. What `read` raises of an image is passed on.

    `beside` is the first key of a batch of another split that these join: its side and its epoch are theirs.
    """
    first = beside or keys[0]
    assert config.letterbox is not None
    sides = config.letterbox
    side = sides[int(np.random.default_rng([seed, 2, first.epoch, first.index]).integers(len(sides)))]
    canvas = Canvas(side, fill_of(pixels), config.antialias)
    return _Batch(keys, read, images, config, canvas, seed, epochs - first.epoch).mixed()


class _Batch:
    """One batch while it is made. `left` is how many epochs there are, this one among them."""

    def __init__(
        self,
        keys: Sequence[Key],
        read: Callable[[int], Example],
        images: int,
        config: AugmentConfig,
        canvas: Canvas,
        seed: int,
        left: int,
    ) -> None:
        self.indices = [key.index for key in keys]
        self.randoms = [key.random(seed) for key in keys]
        self.images, self.config, self.canvas = images, config, canvas
        self.mosaic = _if_on(config.mosaic, left)
        self.mixup = _if_on(config.mixup, left)
        # Photographs are large: kept are those that others of the batch want for sure, and as small as they are wanted.
        cached = self.mosaic is not None and self.mosaic.cached
        self._kept = set(self.indices) if cached else set[int]()
        self._keeps_whole = cached and self.mosaic is not None and self.mosaic.probability < 1
        self.boxes = 0
        self._read = read
        self._own: dict[int, Example] = {}
        self._tiles: dict[int, Sample] = {}

    def mixed(self) -> Mixed:
        samples = [self._sample(index, rng) for index, rng in zip(self.indices, self.randoms, strict=True)]
        if self.mixup is not None and self.mixup.cached:
            samples = self._with_each_other(samples, self.mixup)
        return Mixed(samples, self.canvas.side, self.boxes, self.boxes - sum(len(sample.boxes) for sample in samples))

    def _sample(self, index: int, rng: np.random.Generator) -> Sample:
        sample = self._shown(index, rng)
        if self.mixup is not None and not self.mixup.cached and rng.random() < self.mixup.probability:
            factor = rng.uniform(*self.mixup.range)
            other = fit(
                self._counted(int(rng.integers(self.images))),
                max(1, round(self.canvas.side * factor)),
                self.canvas.antialias,
            )
            sample = self._overlaid(sample, other, self.mixup, rng)
        return varied(sample, self.config, rng)

    def _shown(self, index: int, rng: np.random.Generator) -> Sample:
        """A mosaic, or the image alone, and of it what is shown: at most the canvas, not padded."""
        side, crop = self.canvas.side, self.config.crop
        whole: Sample | None = None
        if self.mosaic is not None and rng.random() < self.mosaic.probability:
            whole = self._mosaic(index, self.mosaic, rng)
            if self.config.affine is not None:
                return mapped(whole, affine_matrix(self.config.affine, rng, whole.size, side), self.canvas)
        if crop is None:
            if whole is None:
                return fit(self._counted(index), side, self.canvas.antialias)
            return cropped(whole, 0.5, (0.0, 0.0), self.canvas)
        factor, place = rng.uniform(*crop.scales), (rng.random(), rng.random())
        if whole is None:
            example = self._counted(index)
            whole = _as_stored(example)
            factor *= side / max(whole.size)
        return cropped(whole, factor, place, self.canvas)

    def _mosaic(self, index: int, config: MosaicConfig, rng: np.random.Generator) -> Sample:
        """[2 S, 2 S]: the image and three others, each fitted into S x S, meet in a point of the inner S x S."""
        side = self.canvas.side
        x, y = (int(value) for value in rng.uniform(0.5 * side, 1.5 * side, 2))
        if config.cached:
            others = [self.indices[i] for i in rng.integers(len(self.indices), size=3).tolist()]
        else:
            others = rng.integers(self.images, size=3).tolist()
        size = (2 * side, 2 * side)
        pixels, tiles = blank(size, self.canvas.fill), []
        for number, chosen in enumerate([index, *others]):
            tile = self._tile(chosen)
            left = x if number % 2 else x - tile.size[1]
            top = y if number // 2 else y - tile.size[0]
            paste(pixels, tile.pixels, left, top)
            tiles.append(replace(tile, boxes=moved(tile.boxes, left, top)))
        boxes = np.concatenate([tile.boxes for tile in tiles])
        labels = np.concatenate([tile.labels for tile in tiles])
        return visible(Sample(pixels, boxes, labels, tiles[0].image_id, (1.0, 1.0), size))

    def _tile(self, index: int) -> Sample:
        """An image fitted into the letterbox; one that is kept is so only once."""
        tile = self._tiles.get(index)
        if tile is not None:
            self.boxes += len(tile.boxes)
            return tile
        tile = fit(self._counted(index), self.canvas.side, self.canvas.antialias)
        if index in self._kept:
            self._tiles[index] = tile
        return tile

    def _with_each_other(self, samples: list[Sample], config: MixUpConfig) -> list[Sample]:
        """Each with another of them, as all were before."""
        mixed = []
        for sample, rng in zip(samples, self.randoms, strict=True):
            if rng.random() < config.probability:
                factor = rng.uniform(*config.range)
                other = samples[int(rng.integers(len(samples)))]
                self.boxes += len(other.boxes)
                if factor != 1:
                    larger = replace(self.canvas, side=max(1, round(self.canvas.side * factor)))
                    other = cropped(other, factor, (0.0, 0.0), larger)
                sample = self._overlaid(sample, other, config, rng)
            mixed.append(sample)
        return mixed

    def _overlaid(self, sample: Sample, other: Sample, config: MixUpConfig, rng: np.random.Generator) -> Sample:
        """The mean of `sample` in a square and a random piece of `other`, which is padded to one of its own first."""
        flips, places = rng.random() < config.flip, rng.random(2)
        sample = self.canvas.around(sample)
        other = self.canvas.around(other, side=max(other.size))
        if flips:
            other = flipped(other)
        room = max(0, other.size[0] - self.canvas.side)
        left, top = (int(place * (room + 1)) for place in places)
        other = self.canvas.around(other, left=-left, top=-top)
        pixels = ((sample.pixels.astype(np.uint16) + other.pixels) // 2).astype(np.uint8)
        return replace(
            sample,
            pixels=pixels,
            boxes=np.concatenate([sample.boxes, other.boxes]),
            labels=np.concatenate([sample.labels, other.labels]),
        )

    def _counted(self, index: int) -> Example:
        """An image that is kept is read once, also where others of its batch want it."""
        example = self._own.get(index)
        if example is None:
            example = self._read(index)
            if index in self._kept and self._keeps_whole:
                self._own[index] = example
        self.boxes += len(example.boxes)
        return example


def _if_on(section: Knobs | None, left: int) -> Knobs | None:
    return None if section is None or left <= section.off_last_epochs else section


def _as_stored(example: Example) -> Sample:
    size = (example.image.height, example.image.width)
    return Sample(np.asarray(example.image), example.boxes, example.labels, example.image_id, (1.0, 1.0), size)
