"""The images of one split with the boxes that train on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crosskd.data.annotations import Annotations, read_annotations, read_classes
from crosskd.data.cache import ImageCache
from crosskd.data.fields import LISTED
from crosskd.data.images import ImageFolder
from crosskd.errors import DataError
from crosskd.spec.data import SixteenBit

__all__ = ["CocoDataset", "Example", "read_classes"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One image as stored, with its boxes in its own pixels."""

    image_id: int
    image: Image.Image  # RGB
    boxes: NDArray[np.float32]  # [G, 4] x1 y1 x2 y2
    labels: NDArray[np.int64]  # [G]


class CocoDataset:
    """A COCO instances file and its image folder.

    Crowd and ignored boxes, and boxes narrower than `min_side` original pixels, train nothing; they stay in
    `annotations`, where the evaluation finds them. With `drop_empty`, images without any box are left out; those whose
    boxes all train nothing (crowds, say) stay, as MMDetection keeps them. Images whose shorter side has fewer than
    `min_image_side` pixels are left out. `as_is` goes to `read_annotations`, `sixteen_bit` to `ImageFolder`. Up to
    `cache_bytes` of decoded images are kept in memory, in each process that reads images of its copy.

    Raises:
        DataError: the file is broken, or more than `max_corrupt_images` images are missing.
    """

    def __init__(
        self,
        annotations: Path | str,
        images: Path | str,
        classes: Sequence[str] | None = None,
        *,
        drop_empty: bool = False,
        min_image_side: int = 0,
        min_side: float = 0.0,
        max_image_pixels: int = 64_000_000,
        max_corrupt_images: int = 0,
        cache_bytes: int = 0,
        as_is: bool = False,
        sixteen_bit: SixteenBit = "high_byte",
    ) -> None:
        self.annotations: Annotations = read_annotations(annotations, classes, as_is=as_is)
        self.folder = ImageFolder(images, max_image_pixels, sixteen_bit)
        self.cache = ImageCache(cache_bytes)
        sides = self.annotations.boxes[:, 2:] - self.annotations.boxes[:, :2]
        self.trains: NDArray[np.bool_] = (
            ~self.annotations.crowd & ~self.annotations.ignore & (sides.min(axis=1, initial=np.inf) >= min_side)
        )
        self.indices: NDArray[np.int64] = np.arange(len(self.annotations), dtype=np.int64)
        if drop_empty:
            annotated = np.diff(self.annotations.starts) > 0
            self.indices = self.indices[annotated & self.trains.any()]
        if not len(self.indices):
            raise DataError(
                "no image has a box that trains",
                where=str(self.annotations.path),
                remedy="Check the boxes and `classes`, or set loader.drop_empty to false.",
            )
        self.indices = self.indices[self.sizes.min(axis=1) >= min_image_side]
        if not len(self.indices):
            raise DataError(
                f"no image has a shorter side of {min_image_side} pixels or more",
                where=str(self.annotations.path),
                remedy="Lower loader.min_image_side.",
            )
        self._check_files(max_corrupt_images)
        dropped = self.annotations.dropped
        if dropped.count:
            log.warning(
                "%s: %d boxes have nothing inside their image and are left out: %s",
                self.annotations.path,
                dropped.count,
                dropped,
            )

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return self.annotations.classes

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[N, 2] height and width of every image of the data set, without reading any."""
        return self.annotations.sizes[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """The file name of image `index`."""
        return self.annotations.names[int(self.indices[index])]

    def __getitem__(self, index: int) -> Example:
        """Read image `index`. Raises DataError if it cannot be read or is not what the annotations say."""
        position = int(self.indices[index])
        rows = self.annotations.rows(position)
        height, width = self.annotations.sizes[position].tolist()
        keep = self.trains[rows]
        name = self.annotations.names[position]
        return Example(
            image_id=int(self.annotations.image_ids[position]),
            image=self.cache.get(position, lambda: self.folder.read(name, (height, width))),
            boxes=self.annotations.boxes[rows][keep].astype(np.float32),
            labels=self.annotations.labels[rows][keep],
        )

    def _check_files(self, allowed: int) -> None:
        """Missing files now, rather than hours into the training."""
        missing = self.folder.missing(self.name(index) for index in range(len(self)))
        if len(missing) > allowed:
            more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
            raise DataError(
                f"{len(missing)} of {len(self)} images are missing: {', '.join(missing[:LISTED])}{more}",
                where=str(self.folder.root),
                remedy="Check the image folder against the annotation file.",
            )
