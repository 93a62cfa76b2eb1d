"""From the bytes of an image to what an exported graph takes: decoded, upright, resized and padded.

Imports no torch: the API's processes and `crosskd predict FILE.onnx` use it. `crosskd.load` does the same by the
training's own code; a test holds the two together.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from crosskd.data.images import BROKEN, FORMATS, as_rgb
from crosskd.errors import DataError
from crosskd.spec.data.image_size import Size, fitted, padded
from crosskd.spec.data.section import SixteenBit
from crosskd.spec.evaluate_export import ScaleConfig
from crosskd.spec.results.predictions import FaultKind

SHORTEST = 16  # bytes; no image of any format is so small
_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II", b"MM", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")


class BadImage(DataError):
    """An image that cannot be used; `kind` says which sort of fault it is."""

    def __init__(self, kind: FaultKind, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.kind = kind


def decode(content: bytes, scale: ScaleConfig, *, max_pixels: int) -> tuple[Image.Image, str]:
    """An image in mode RGB, its EXIF orientation applied, and a remark on one that is nearly black. As `decode_as`."""
    return decode_as(content, scale.sixteen_bit or "high_byte", max_pixels=max_pixels)


def decode_as(
    content: bytes, sixteen_bit: SixteenBit, *, max_pixels: int, size: Size | None = None
) -> tuple[Image.Image, str]:
    """An image in mode RGB, of `size` (height, width) if one is given: turned by EXIF only where that leads to it, as
    `ImageFolder.read` does; and a remark on one that is nearly black.

    The number of pixels is judged by the header, before anything is decoded. Raises `BadImage`.
    """
    if len(content) < SHORTEST:
        count = "1 byte" if len(content) == 1 else f"{len(content)} bytes"
        raise BadImage("broken", f"{count} cannot be an image", remedy="Send the whole file.")
    file = io.BytesIO(content)
    try:
        with warnings.catch_warnings(action="ignore"), _opened(file, content, max_pixels) as image:
            if image.width * image.height > max_pixels:
                raise _too_large(f"{image.width} x {image.height} pixels are", max_pixels)
            return as_rgb(image, "", sixteen_bit, file=file, size=size)
    except BadImage:
        raise
    except DataError as error:
        raise BadImage("broken", error.message, remedy=error.remedy) from None
    except BROKEN as error:
        message = f"the image cannot be decoded: {str(error)[:300] or type(error).__name__}"
        raise BadImage("broken", message, remedy="Send the whole file, or save it anew.") from None


def _opened(file: io.BytesIO, content: bytes, max_pixels: int) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = None  # Pillow's own alarm knows only one limit for all; ours is judged by the caller
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        if content.startswith(_SIGNATURES):
            message, remedy = "the image's header is broken", "Send the whole file, or save it anew."
            raise BadImage("broken", message, remedy=remedy) from None
        message = f"this is no image of a known format ({', '.join(FORMATS)})"
        raise BadImage("format", message, remedy="Save it as JPEG or PNG.") from None
    except Image.DecompressionBombError:
        raise _too_large("these are", max_pixels) from None


def _too_large(what: str, max_pixels: int) -> BadImage:
    return BadImage("pixels", f"{what} more than the {max_pixels:,} that are taken", remedy="Shrink the image.")


def network_input(image: Image.Image, scale: ScaleConfig) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """An RGB image as the graph takes it: pixels [1, 3, H, W] of 0..255, zero where padded, and its size [1, 2]."""
    original = (image.height, image.width)
    short = min(scale.short_edge, scale.long_edge)
    height, width = fitted(original, short, scale.long_edge, keep_ratio=scale.keep_ratio)
    if (height, width) == original:
        pixels = np.asarray(image)
    elif scale.antialias is False:
        pixels = plain_bilinear(np.asarray(image), (height, width))
    else:
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    rows, columns = padded((height, width), scale.pad_to)
    images = np.zeros((1, 3, rows, columns), dtype=np.float32)
    images[0, :, :height, :width] = pixels.transpose(2, 0, 1)
    return images, np.array([[height, width]], dtype=np.int64)


def plain_bilinear(pixels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """An RGB image [h, w, 3] at another size, each pixel out of the four around its place: without antialiasing.

    First along the rows, rounded, then along the columns, as torch's `interpolate` of bytes does.
    """
    low, high, part = _places(pixels.shape[0], size[0])
    needed, inverse = np.unique(np.concatenate([low, high]), return_inverse=True)  # rows that nobody sees cost nothing
    narrow = _mixed(pixels[needed].swapaxes(0, 1), *_places(pixels.shape[1], size[1])).swapaxes(0, 1)
    return _mixed(narrow, inverse[: len(low)], inverse[len(low) :], part)


def _places(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each place along a side: the two that it lies between, and how near it is to the second."""
    place = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    low = np.minimum(place.astype(np.int64), source - 1)
    high = np.minimum(low + 1, source - 1)
    return low, high, np.where(low < high, place - low, 0.0)


def _mixed(
    values: NDArray[np.uint8], low: NDArray[np.int64], high: NDArray[np.int64], part: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """In whole numbers, as torch does it: many values lie just between two levels, and floats would round otherwise."""
    largest = float(np.maximum(part, 1 - part).max())
    bits = next(bits for bits in range(22) if int(0.5 + largest * (1 << (bits + 1))) >= 1 << 15)
    near = np.floor(0.5 + (1 - part) * (1 << bits)).astype(np.int32)[:, None, None]
    far = np.floor(0.5 + part * (1 << bits)).astype(np.int32)[:, None, None]
    mixed = (values[low] * near + values[high] * far + (1 << (bits - 1))) >> bits
    return mixed.clip(0, 255).astype(np.uint8)
