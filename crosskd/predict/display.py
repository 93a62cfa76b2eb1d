"""An image of a data set as a browser can show it: small, upright, 8-bit, and nothing but its pixels."""

from __future__ import annotations

import io

from PIL import Image

from crosskd.predict.picture import decode_as
from crosskd.spec.data.section import SixteenBit

QUALITY = 85  # of JPEG


def displayed(content: bytes, side: int, *, size: tuple[int, int], sixteen_bit: SixteenBit, max_pixels: int) -> bytes:
    """A JPEG whose longer side has `side` pixels at most; never larger than the image.

    It is oriented as a training reads it, of the annotated `size` (height, width): boxes fit when they are scaled by
    the same factor. Raises `BadImage`, where it is not of that size, too.
    """
    image, _ = decode_as(content, sixteen_bit, max_pixels=max_pixels, size=size)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    target = io.BytesIO()
    image.save(target, "JPEG", quality=QUALITY)
    return target.getvalue()
