"""The images of one split with the boxes that train on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crosskd.data.annotations import Annotations, read_annotations, read_classes
from crosskd.data.cache import ImageCache
from crosskd.data.images import ImageFolder
from crosskd.errors import DataError
from crosskd.spec.coco.categories import other_categories
from crosskd.spec.coco.image_files import OUTSIDE_REMEDY, explain_outside
from crosskd.spec.coco.near_names import explain
from crosskd.spec.coco.survey import Use
from crosskd.spec.data.section import SixteenBit

log = logging.getLogger(__name__)

__all__ = ["CocoDataset", "Example", "read_classes"]


@dataclass(frozen=True)
class Example:
    """One image as stored, with its boxes in its own pixels."""

    image_id: int
    image: Image.Image  # RGB
    boxes: NDArray[np.float32]  # [G, 4] x1 y1 x2 y2
    labels: NDArray[np.int64]  # [G]


def require_same_classes(train: Sequence[str], annotations: Path | str) -> None:
    """Raises DataError where the categories of a validation file are not the classes of the training."""
    if (fault := other_categories(train, read_classes(annotations))) is not None:
        raise DataError(fault.detail, where=str(annotations), remedy=fault.remedy)


class CocoDataset:
    """A COCO instances file and its image folder.

    Crowd and ignored boxes, and boxes narrower than `min_side` original pixels, train nothing; they stay in
    `annotations`, where the evaluation finds them. With `drop_empty`, images without any box are left out; those whose
    boxes all train nothing (crowds, say) stay, as MMDetection keeps them. Images whose shorter side has fewer than
    `min_image_side` pixels are left out. `as_is` goes to `read_annotations`, `sixteen_bit` to `ImageFolder`. Up to
    `cache_bytes` of decoded images are kept in memory, in each process that reads images of its copy. `train` says for
    whom `annotations.remarks` are. Images may be links to files in the folder and in `roots`
    (real paths).

    Raises:
        DataError: the file is broken or has nothing to use, or more than `max_corrupt_images` images are missing.
    """

    def __init__(
        self,
        annotations: Path | str,
        images: Path | str,
        classes: Sequence[str] | None = None,
        *,
        train: bool = True,
        drop_empty: bool = False,
        min_image_side: int = 0,
        min_side: float = 0.0,
        max_image_pixels: int = 64_000_000,
        max_corrupt_images: int = 0,
        cache_bytes: int = 0,
        as_is: bool = False,
        sixteen_bit: SixteenBit = "high_byte",
        roots: Sequence[Path] = (),
    ) -> None:
        use = Use(
            "train" if train else "val",
            classes,
            min_side=min_side,
            drop_empty=drop_empty,
            min_image_side=min_image_side,
            as_is=as_is,
        )
        self.annotations: Annotations = read_annotations(annotations, use=use)
        for remark in self.annotations.remarks:
            log.warning("%s: %s", self.annotations.path, remark)
        self.folder = ImageFolder(images, max_image_pixels, sixteen_bit, roots=roots)
        self.cache = ImageCache(cache_bytes)
        self.indices = self.annotations.used
        self._check_files(max_corrupt_images)

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
        keep = self.annotations.trains[rows]
        name = self.annotations.names[position]
        return Example(
            image_id=int(self.annotations.image_ids[position]),
            image=self.cache.get(position, lambda: self.folder.read(name, (height, width))),
            boxes=self.annotations.boxes[rows][keep].astype(np.float32),
            labels=self.annotations.labels[rows][keep],
        )

    def summary(self) -> dict[str, Any]:
        """For a manifest: what the file has, what of it is used, and what was dropped, clipped or left out."""
        found = self.annotations
        return {
            "images": len(found),
            "images_used": len(self),
            "boxes": len(found.boxes),
            "boxes_that_train": int(found.trains.sum()),
            "remarks": [remark.values() for remark in found.remarks],
        }

    def _check_files(self, allowed: int) -> None:
        """Missing files now, rather than hours into the training."""
        found = self.folder.look(self.name(index) for index in range(len(self)))
        if found.outside:
            raise DataError(
                explain_outside(found.outside, found.looked), where=str(self.folder.root), remedy=OUTSIDE_REMEDY
            )
        if not found.missing:
            return
        missing = explain(self.folder.root, found.missing, found.looked, self.folder.roots)
        if len(found.missing) > allowed:
            raise DataError(missing.detail, where=str(self.folder.root), remedy=missing.remedy)
        log.warning("%s: %s. %s", self.folder.root, missing.detail, missing.remedy)
