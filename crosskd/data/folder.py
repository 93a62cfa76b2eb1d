"""Images without annotations: the first of a folder, by name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from crosskd.data.coco import Example
from crosskd.data.images import BROKEN, FORMATS, ImageFolder
from crosskd.data.transforms import Sample, validation_sample
from crosskd.errors import DataError
from crosskd.spec.config import AugmentConfig
from crosskd.spec.data.image_list import SUFFIXES, image_names

log = logging.getLogger(__name__)


def read_samples(
    folder: Path | str, count: int, augment: AugmentConfig, *, max_pixels: int, roots: Sequence[Path] = ()
) -> list[Sample]:
    """The first `count` images that can be read, in the folder or below it, at the scale of the evaluation.

    Images may be links to files in the folder and in `roots` (real paths).
    Raises `DataError` where there is none; fewer than `count` are no error.
    """
    images = ImageFolder(folder, max_pixels, augment.sixteen_bit or "high_byte", roots=roots)
    samples: list[Sample] = []
    for name in _names(images):
        try:
            image = _read(images, name)
        except DataError as error:
            log.warning("image skipped: %s", error)
            continue
        example = Example(len(samples), image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        samples.append(validation_sample(example, augment))
        if len(samples) == count:
            break
    for name, remark in images.dark.items():
        log.warning("%s: %s", name, remark)
    if not samples:
        raise DataError(
            f"the folder holds no image that can be read ({', '.join(sorted(SUFFIXES))})",
            where=str(images.root),
            remedy="Name a folder of images.",
        )
    return samples


def _names(images: ImageFolder) -> Iterator[str]:
    """Files that are called images, relative to the folder, without listing more folders than are needed."""
    # A link that takes the folder's place is not followed: names outside are nobody's business.
    with images.open_folder() as top:
        yield from image_names(top)


def _read(images: ImageFolder, name: str) -> Image.Image:
    try:
        with images.open(name) as file, Image.open(file, formats=FORMATS) as stored:
            size = (stored.height, stored.width)
    except (*BROKEN, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"the image cannot be opened: {str(error) or type(error).__name__}"
        raise DataError(message, where=str(images.root / name), remedy="Replace the file.") from None
    return images.read(name, size)
