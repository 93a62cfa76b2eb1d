"""The perceptual hash of an image, by which images that nearly show the same are found."""

from __future__ import annotations

import imagehash
from PIL import Image

BITS = 64


def perceptual_hash(image: Image.Image) -> int:
    """64 bits: which low frequencies of the grey image, 32 x 32, are above their median (`imagehash.phash`)."""
    return int(str(imagehash.phash(image)), 16)
