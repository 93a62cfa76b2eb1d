"""A batch out of the keys of its images: what a loader process does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import Dataset, get_worker_info

from crosskd.data.coco import CocoDataset, Example
from crosskd.data.mixing import Key, Mixed, mixed_batch
from crosskd.data.packed_batch import PackedBatch
from crosskd.data.transforms import Sample, stacked, training_sample, validation_sample
from crosskd.data.unlabelled import UnlabelledImages
from crosskd.errors import DataError
from crosskd.spec.config import AugmentConfig, CocoSplit, LoaderConfig, PixelConfig

Split = Literal["train", "val"]


@dataclass(frozen=True)
class LoaderInput:
    """What a loader reads: the files of a split, and how batches are made of its images."""

    split: Split  # "train": in random order, augmented; "val": each image once, at the scale of the evaluation
    files: CocoSplit
    augment: AugmentConfig
    pixels: PixelConfig  # of the detector that the batches are for
    loader: LoaderConfig
    batch_size: int
    max_corrupt_images: int
    max_image_pixels: int
    classes: Sequence[str] | None = None  # in label order; None: the file's categories by ascending id
    seed: int = 0
    epochs: int = 1  # of the whole training: the last ones may go without mosaic and MixUp
    roots: Sequence[Path] = ()  # folders that images may be links to, beside the folder of the images
    as_is: bool = False  # keep the ground truth as it stands in the file, too
    shown: bool = False  # the targets say of each image what is to be seen in it


@dataclass(frozen=True)
class Loaded:
    """What a worker sends: a batch, if there is an image for it, and what it could not read.

    Faults travel as values: raised in a worker, an error would arrive as a traceback in a string.
    """

    packed: PackedBatch | None
    corrupt: dict[str, str] = field(default_factory=dict)  # file name -> fault
    dark: dict[str, str] = field(default_factory=dict)  # file name -> why it is nearly black
    unsent: str = ""  # why the batch could not be sent
    boxes: int = 0  # that went into mixed images
    left_out: int = 0  # of these: nothing of them is to be seen

    def pin_memory(self) -> Loaded:
        """For the loader's pinning thread."""
        return replace(self, packed=self.packed.pin_memory() if self.packed else None)


Images = CocoDataset | UnlabelledImages


class _NotReadable(Exception):
    """There is no image for a place of a batch; what is wrong with the files stands elsewhere."""


class BatchSource(Dataset[Loaded]):
    """Makes a batch out of its keys. A copy of this is what each worker process holds."""

    def __init__(self, dataset: CocoDataset, settings: LoaderInput) -> None:
        self.dataset, self.settings = dataset, settings
        self.unlabelled: UnlabelledImages | None = None

    def __getitem__(self, keys: list[Key]) -> Loaded:
        corrupt: dict[str, str] = {}
        labelled, others = ([key for key in keys if key.unlabelled is kind] for kind in (False, True))
        try:
            mixed = self._samples(labelled, self.dataset, corrupt)
            besides: list[Sample] = []
            if self.unlabelled is not None and others:
                besides = self._samples(others, self.unlabelled, corrupt, beside=labelled[0]).samples
        except _NotReadable:
            return Loaded(None, corrupt)
        dark = self._dark()
        if not mixed.samples:
            return Loaded(None, corrupt, dark)
        samples = [*mixed.samples, *besides]
        settings = self.settings
        packed = PackedBatch.of(
            stacked(samples, settings.pixels, mixed.side, unlabelled=len(besides), shown=settings.shown)
        )
        if get_worker_info() is not None:
            try:
                # Here, and not when the queue's own thread sends it: an error there reaches nobody.
                packed.share_memory()
            except (RuntimeError, OSError) as error:
                return Loaded(None, corrupt, dark, unsent=str(error).splitlines()[0])
        return Loaded(packed, corrupt, dark, boxes=mixed.boxes, left_out=mixed.left_out)

    def _samples(self, keys: list[Key], images: Images, corrupt: dict[str, str], beside: Key | None = None) -> Mixed:
        """Those of one data set. Labelled images and others come into no picture together."""
        mixes = self.settings.split == "train" and self.settings.augment.letterbox is not None
        return self._mixed(keys, images, corrupt, beside) if mixes else self._alone(keys, images, corrupt, beside)

    def _dark(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for images in (self.dataset, self.unlabelled):
            if images is not None:
                found |= {self._called(images, name): remark for name, remark in images.folder.dark.items()}
                images.folder.dark = {}
        return found

    def _called(self, images: Images, name: str) -> str:
        """The two folders may have images of the same name, and each counts."""
        return name if images is self.dataset else f"{name} (without labels)"

    def _mixed(self, keys: list[Key], images: Images, corrupt: dict[str, str], beside: Key | None) -> Mixed:
        settings = self.settings

        def read(index: int) -> Example:
            if (example := self._read(images, index, corrupt)) is None:
                raise _NotReadable
            return example

        return mixed_batch(
            keys,
            read,
            images=len(images),
            config=settings.augment,
            pixels=settings.pixels,
            seed=settings.seed,
            epochs=settings.epochs,
            beside=beside,
        )

    def _alone(self, keys: list[Key], images: Images, corrupt: dict[str, str], beside: Key | None) -> Mixed:
        """Each image by itself, whose side is padded to a multiple."""
        settings = self.settings
        samples: list[Sample] = []
        edge = self._edge(beside or keys[0])
        for key in keys:
            example = self._read(images, key.index, corrupt)
            if len(corrupt) > settings.max_corrupt_images:
                raise _NotReadable
            if example is None:
                continue
            if settings.split == "val":
                samples.append(validation_sample(example, settings.augment))
            else:
                rng = key.random(settings.seed)
                samples.append(training_sample(example, settings.augment, rng, short_edge=edge))
        return Mixed(samples, settings.augment.pad_to, boxes=0, left_out=0)

    def _edge(self, first: Key) -> int | None:
        """The side of the batch's squares, where images are stretched to these; None: each image has its own."""
        augment = self.settings.augment
        if augment.keep_ratio:
            return None
        rng = np.random.default_rng([self.settings.seed, 2, first.epoch, first.index])
        return augment.short_edges[int(rng.integers(len(augment.short_edges)))]

    def _read(self, images: Images, index: int, corrupt: dict[str, str]) -> Example | None:
        """None if the image cannot be read. The training takes the next image in its place, the validation none."""
        places = len(images) if self.settings.split == "train" else 1
        for position in (place % len(images) for place in range(index, index + places)):
            try:
                return images[position]
            except DataError as error:
                corrupt[self._called(images, images.name(position))] = str(error)
                if len(corrupt) > self.settings.max_corrupt_images:
                    return None
        return None
