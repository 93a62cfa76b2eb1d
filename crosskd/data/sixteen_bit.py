"""16-bit images as 8-bit ones. Cameras of 12 bits write 16-bit files, whose upper byte alone is nearly black."""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DARKEST_PEAK = 64  # of 255, for the brightest value: one below it uses no more than 14 of the 16 bits
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # by the byte order of a value

_GREY_AND_ALPHA = "LA;16B"  # of PNG; Pillow has no such mode in the other byte order


def is_sixteen_bit(image: Image.Image) -> bool:
    """Whether an image that was opened, but not yet loaded, has 16 bits a value in its file.

    Pillow knows 16-bit grey alone as a mode; of colour it drops the lower byte while it decodes.
    """
    return image.mode.startswith("I;16") or any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def nearly_black(rgb: Image.Image) -> str:
    """Why a 16-bit image without its lower byte is hardly seen; empty where it can be seen."""
    peak = int(np.asarray(rgb).max())
    if peak >= DARKEST_PEAK:
        return ""
    return (
        f"of its 16 bits the lower byte is dropped, and its brightest value is {peak} of 255 then: nearly black. "
        "`augment.sixteen_bit: own_range` stretches each image by its own range"
    )


def stretched(image: Image.Image, file: BinaryIO | None) -> Image.Image:
    """A loaded 16-bit image as 8-bit RGB: its darkest value is 0, its brightest 255, over all colours.

    Transparency is dropped. `file`, which it was read from, is read once more; for grey it is not needed. Raises what
    Pillow does on broken bytes.
    """
    values = _values(image, file).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    eight = np.rint((values - low) * (255 / max(high - low, 1.0))).astype(np.uint8)
    return Image.fromarray(eight).convert("RGB")


def _values(image: Image.Image, file: BinaryIO | None) -> NDArray[np.uint16]:
    """[h, w] grey or [h, w, 3] RGB."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    assert file is not None  # Pillow has dropped the lower byte of colours
    file.seek(0)
    with Image.open(file, formats=[str(image.format)]) as again:
        tiles: list[Any] = again.tile
        grey = any(tile.args == _GREY_AND_ALPHA for tile in tiles)
        again.tile = [tile._replace(args=_other_byte(tile.args)) for tile in tiles]
        again.load()
        read = np.asarray(again).astype(np.uint16)  # [h, w, 3 or 4]
    if grey:  # all four bytes of a pixel, the two of its grey first
        values: NDArray[np.uint16] = read[..., 0] * np.uint16(256) + read[..., 1]
    else:
        values = np.asarray(image.convert("RGB")).astype(np.uint16) * np.uint16(256) + read[..., :3]
    return values


def _other_byte(args: Any) -> Any:
    """A tile's raw mode, alone or the first of several arguments, for the byte that Pillow would drop.

    What is the lower byte in a file is the upper one to who takes the file for one in the other byte order.
    """
    if isinstance(args, tuple):
        return (_other_byte(args[0]), *args[1:])
    mode = str(args)
    return "RGBA" if mode == _GREY_AND_ALPHA else mode[:-1] + _OTHER_BYTE[mode[-1]]
