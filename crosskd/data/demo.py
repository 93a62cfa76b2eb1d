"""A data set drawn from a seed: rotated, scaled, noisy glyphs over clutter. Imports no torch.

Each image comes from its own random numbers, so the first images of a larger set are those of a smaller one.
Glyphs are of Pillow's own font; with another version of Pillow a box may move by a pixel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from crosskd.errors import ConfigError
from crosskd.spec.config import CocoSplit, DataConfig

GLYPHS = "ABEFGHKRS4"  # no two of them are turns of each other
SMALLEST, LARGEST = 10, 56  # pixels of a glyph's longer side
DRAWN = 96  # pixels: the font size at which a glyph is drawn before it is turned and shrunk
TURN = 30.0  # degrees, to either side
FEWEST, MOST = 2, 8  # glyphs tried in an image
NOISE = (3.0, 12.0)  # grey levels: the range of its standard deviation
PATCHES = (60, 196)  # grey levels of the soft patches behind everything
VISIBLE = 0.6  # the share of a glyph that others must leave uncovered
SOLID = 96  # of 255: from this opacity on, a pixel belongs to its glyph
CONTRAST = 60.0  # grey levels by which the colour of a glyph differs from what lies behind it

Plane = NDArray[np.uint8]


@dataclass(frozen=True)
class Glyph:
    """A glyph that lies in an image: `mask` [h, w] with its upper left corner at (x, y)."""

    label: int
    mask: Plane
    x: int
    y: int

    def on(self, size: int) -> NDArray[np.bool_]:
        """[size, size] where it covers the image, were it alone."""
        canvas = np.zeros((size, size), dtype=bool)
        height, width = self.mask.shape
        canvas[self.y : self.y + height, self.x : self.x + width] = self.mask >= SOLID
        return canvas


def write_demo(
    folder: Path | str, *, train: int = 1000, val: int = 200, size: int = 128, classes: int = 10, seed: int = 0
) -> DataConfig:
    """Write `train.json`, `val.json` and `images/` (JPEG, `size` x `size`) to `folder`, and say where they lie.

    Boxes are tight around what is visible of a glyph; `area` is that of the box. An annotation file is the same bytes
    for the same arguments, and is written last: where it stands, its images do.

    Raises:
        ConfigError: more classes than there are glyphs, no image, or images too small for a glyph.
    """
    if not 1 <= classes <= len(GLYPHS) or min(train, val) < 1 or size < LARGEST:
        raise ConfigError(
            f"cannot draw {classes} classes on {train} and {val} images of {size} pixels",
            remedy=f"Ask for 1 to {len(GLYPHS)} classes, 1 or more images, and {LARGEST} or more pixels.",
        )
    folder = Path(folder)
    splits = {
        name: _write_split(folder, name, count, size, classes, [seed, stream])
        for stream, (name, count) in enumerate({"train": train, "val": val}.items())
    }
    return DataConfig(train=splits["train"], val=splits["val"], classes=list(GLYPHS[:classes]))


def draw(rng: np.random.Generator, *, size: int, classes: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    """One image, and its annotations without ids: `bbox`, `area` and `label` (0..classes-1)."""
    canvas = _background(rng, size)
    glyphs = _placed(rng, size, classes)
    for glyph in glyphs:
        _paint(rng, canvas, glyph)
    noise = rng.normal(0.0, rng.uniform(*NOISE), canvas.shape)
    image = Image.fromarray(np.clip(canvas + noise, 0, 255).astype(np.uint8))
    return image, list(_annotated(glyphs, size))


def _write_split(folder: Path, name: str, count: int, size: int, classes: int, stream: list[int]) -> CocoSplit:
    images, annotations = folder / "images", folder / f"{name}.json"
    images.mkdir(parents=True, exist_ok=True)
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": label + 1, "name": GLYPHS[label]} for label in range(classes)],
    }
    for number in range(1, count + 1):
        image, boxes = draw(np.random.default_rng([*stream, number]), size=size, classes=classes)
        file_name = f"{name}_{number:06d}.jpg"
        image.save(images / file_name, quality=90)
        content["images"].append({"id": number, "file_name": file_name, "width": size, "height": size})
        for box in boxes:
            label = box.pop("label")
            ids = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
            content["annotations"].append(ids | box)
    annotations.write_text(json.dumps(content), encoding="utf-8")
    return CocoSplit(annotations=str(annotations), images=str(images))


@lru_cache(maxsize=len(GLYPHS))
def _upright(label: int) -> Image.Image:
    """A large mask of a glyph, in mode L."""
    font = ImageFont.load_default(DRAWN)
    left, top, right, bottom = map(int, font.getbbox(GLYPHS[label]))
    mask = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(mask).text((1 - left, 1 - top), GLYPHS[label], fill=255, font=font)
    return mask.crop(mask.getbbox())


def _mask(rng: np.random.Generator, label: int) -> Plane:
    """A glyph, turned and scaled: small ones are as likely as large ones per doubling."""
    turned = _upright(label).rotate(rng.uniform(-TURN, TURN), Image.Resampling.BICUBIC, expand=True)
    turned = turned.crop(turned.getbbox())
    longest = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
    scale = longest / max(turned.size)
    width, height = (max(2, round(side * scale)) for side in turned.size)
    return np.asarray(turned.resize((width, height), Image.Resampling.BOX))


def _placed(rng: np.random.Generator, size: int, classes: int) -> list[Glyph]:
    """Glyphs that may overlap, later ones above earlier ones. One that would hide too much is left out."""
    glyphs: list[Glyph] = []
    for _ in range(int(rng.integers(FEWEST, MOST + 1))):
        label = int(rng.integers(classes))
        mask = _mask(rng, label)
        height, width = mask.shape
        x, y = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
        candidate = [*glyphs, Glyph(label, mask, x, y)]
        if all(share >= VISIBLE for _, share in _visible(candidate, size)):
            glyphs = candidate
    return glyphs


def _visible(glyphs: list[Glyph], size: int) -> Iterator[tuple[NDArray[np.bool_], float]]:
    """What is seen of each glyph, and which share of it, from the topmost down."""
    covered = np.zeros((size, size), dtype=bool)
    for glyph in reversed(glyphs):
        shape = glyph.on(size)
        seen = shape & ~covered
        yield seen, float(seen.sum() / max(1, shape.sum()))
        covered |= shape


def _annotated(glyphs: list[Glyph], size: int) -> Iterator[dict[str, Any]]:
    seen = [shape for shape, _ in _visible(glyphs, size)][::-1]
    for glyph, shape in zip(glyphs, seen, strict=True):
        rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        width, height = int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
        yield {"label": glyph.label, "bbox": [x, y, width, height], "area": width * height}


def _background(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """[size, size, 3]: soft patches of colour under strokes that look like pieces of glyphs."""
    cells = int(rng.integers(2, 9))
    patches = rng.integers(*PATCHES, (cells, cells, 3)).astype(np.uint8)
    image = Image.fromarray(patches).resize((size, size), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 13))):
        colour = tuple(rng.integers(0, 256, 3).tolist())
        x, y = rng.integers(0, size, 2).tolist()
        reach = int(rng.integers(6, 50))
        width = int(rng.integers(1, 5))
        if rng.random() < 0.5:
            dx, dy = rng.integers(-reach, reach + 1, 2).tolist()
            pen.line((x, y, x + dx, y + dy), fill=colour, width=width)
        else:
            start = int(rng.integers(360))
            pen.arc((x, y, x + reach, y + reach), start, start + int(rng.integers(60, 240)), fill=colour, width=width)
    return np.asarray(image, dtype=np.float64)


def _paint(rng: np.random.Generator, canvas: NDArray[np.float64], glyph: Glyph) -> None:
    """Blend a glyph in a colour of its own, sometimes a little blurred, into the canvas."""
    height, width = glyph.mask.shape
    spot = canvas[glyph.y : glyph.y + height, glyph.x : glyph.x + width]
    behind = spot.reshape(-1, 3).mean(axis=0)
    colour = rng.uniform(0, 255, 3)
    while abs(colour.mean() - behind.mean()) < CONTRAST:
        colour = rng.uniform(0, 255, 3)
    mask = Image.fromarray(glyph.mask).filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.8)))
    opacity = np.asarray(mask, dtype=np.float64)[:, :, None] / 255
    spot += opacity * (colour - spot)
