"""Detections on their picture: boxes with class and score. Imports no torch."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crosskd.predict.output import escaped

LONGEST_SIDE = 4096  # pixels; a larger picture is shrunk to it
LONGEST_NAME = 40  # characters
_GOLDEN = 0.618033988749895  # of the circle of hues: neighbours in the list of classes lie far apart


def drawn(
    image: Image.Image,
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    names: Sequence[str],
) -> Image.Image:
    """A copy of an RGB image with its boxes [n, 4] (x1 y1 x2 y2), the best on top; `names` by label."""
    shrink = min(1.0, LONGEST_SIDE / max(image.size))
    size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
    picture = image.resize(size, Image.Resampling.BILINEAR) if shrink < 1 else image.copy()
    pen = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 400))
    font = ImageFont.load_default(max(10, round(max(picture.size) / 60)))
    for box, score, label in reversed(list(zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True))):
        left, top, right, bottom = (value * shrink for value in box)
        colour = colour_of(label)
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
        _write(pen, (left, top), f"{shown(names[label])} {score:.2f}", font, colour, picture.size)
    return picture


def _write(
    pen: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """A text on its colour, above `corner` where there is room, and always inside of the picture."""
    _, _, width, height = pen.textbbox((0, 0), text, font=font)
    x = max(0.0, min(corner[0], size[0] - width - 4))
    y = corner[1] - height - 4 if corner[1] >= height + 4 else corner[1]
    y = max(0.0, min(y, size[1] - height - 4))
    pen.rectangle((x, y, x + width + 4, y + height + 4), fill=colour)
    bright = sum(part * weight for part, weight in zip(colour, (0.299, 0.587, 0.114), strict=True)) > 140
    pen.text((x + 2, y + 2), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)


def colour_of(label: int) -> tuple[int, int, int]:
    """The colour of a class: the same in every picture."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1.0, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def shown(name: str) -> str:
    """A class name on one line: what has no shape is written as its escape, and a long one is cut."""
    visible = escaped(name)
    return visible if len(visible) <= LONGEST_NAME else f"{visible[: LONGEST_NAME - 1]}…"


def png(picture: Image.Image) -> bytes:
    """A picture as PNG, quickly rather than small."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
