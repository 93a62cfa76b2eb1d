"""Images in squares: fitted and padded, cut out at random, or drawn through an affine map."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crosskd.data.coco import Example
from crosskd.data.transforms import Sample, plain_bilinear, resized
from crosskd.spec.config import AffineConfig, PixelConfig
from crosskd.structures import Size

SMALLEST = 1.0  # pixels: what is left of a box trains if both its sides have as many

Colour = tuple[int, int, int]  # RGB
Place = tuple[float, float]  # shares 0..1 of the room there is: to the right, downwards


@dataclass(frozen=True)
class Canvas:
    """A square to draw in."""

    side: int
    fill: Colour
    antialias: bool | None

    def around(self, sample: Sample, *, left: int = 0, top: int = 0, side: int | None = None) -> Sample:
        """`sample` with its upper left corner at (left, top), which may lie outside, in a square, `side` by default."""
        side = side or self.side
        if (left, top) == (0, 0) and sample.size == (side, side):
            return sample
        pixels = blank((side, side), self.fill)
        paste(pixels, sample.pixels, left, top)
        return visible(replace(sample, pixels=pixels, boxes=moved(sample.boxes, left, top)))


def fill_of(pixels: PixelConfig) -> Colour:
    """What stands around an image before it is normalised, as whole numbers: the mean where that is 0 behind it."""
    values = pixels.mean if pixels.padding is None else (pixels.padding,) * 3
    first, second, third = (round(min(max(value, 0.0), 255.0)) for value in values)
    return (first, second, third) if pixels.order == "rgb" else (third, second, first)


def blank(size: Size, fill: Colour) -> NDArray[np.uint8]:
    """[h, w, 3] of one colour."""
    if len(set(fill)) == 1:
        return np.full((*size, 3), fill[0], dtype=np.uint8)  # several times quicker than colour by colour
    pixels = np.empty((*size, 3), dtype=np.uint8)
    pixels[:] = fill
    return pixels


def paste(canvas: NDArray[np.uint8], pixels: NDArray[np.uint8], left: int, top: int) -> None:
    """Write `pixels` into `canvas` with their upper left corner at (left, top); what lies outside is left out."""
    (height, width), (rows, columns) = canvas.shape[:2], pixels.shape[:2]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + columns, width), min(top + rows, height)
    if x0 < x1 and y0 < y1:
        canvas[y0:y1, x0:x1] = pixels[y0 - top : y1 - top, x0 - left : x1 - left]


def moved(boxes: NDArray[np.float32], right: float, down: float) -> NDArray[np.float32]:
    """Boxes [G, 4], shifted."""
    return boxes + np.array([right, down, right, down], dtype=np.float32)


def visible(sample: Sample) -> Sample:
    """With its boxes clipped to the image; those of which nothing of `SMALLEST` is left are left out."""
    height, width = sample.size
    boxes = sample.boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST).all(axis=1)
    return replace(sample, boxes=boxes[keep], labels=sample.labels[keep])


def fit(example: Example, side: int, antialias: bool | None) -> Sample:
    """Resized, up or down, so that the longer side has `side` pixels."""
    height, width = example.image.height, example.image.width
    return resized(example, scaled((height, width), side / max(height, width)), antialias)


def scaled(size: Size, factor: float) -> Size:
    """Rounded to whole pixels, one at least."""
    height, width = (max(1, int(value * factor + 0.5)) for value in size)
    return height, width


def cropped(sample: Sample, factor: float, place: Place, canvas: Canvas) -> Sample:
    """A piece of `sample`, scaled by `factor`, as large as the canvas at most, taken at `place`. It is not padded."""
    height, width = scaled(sample.size, factor)
    rows, columns = min(height, canvas.side), min(width, canvas.side)
    left, top = int(place[0] * (width - columns + 1)), int(place[1] * (height - rows + 1))
    across, down = width / sample.size[1], height / sample.size[0]
    image = Image.fromarray(np.ascontiguousarray(sample.pixels))
    if factor >= 1:  # what is not seen need not be computed; antialiasing is of images that are made smaller
        box = (left / across, top / down, (left + columns) / across, (top + rows) / down)
        box = (*box[:2], min(box[2], sample.size[1]), min(box[3], sample.size[0]))  # rounding may reach over
        pixels = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR, box=box))
    else:
        if canvas.antialias is False:
            whole = plain_bilinear(image, (height, width))
        else:
            whole = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        pixels = whole[top : top + rows, left : left + columns]
    boxes = sample.boxes * np.array([across, down] * 2, dtype=np.float32)
    scale = (sample.scale[0] * across, sample.scale[1] * down)
    return visible(replace(sample, pixels=pixels, boxes=moved(boxes, -left, -top), scale=scale))


def affine_matrix(config: AffineConfig, rng: np.random.Generator, size: Size, side: int) -> NDArray[np.float64]:
    """[3, 3] from pixels of an image of `size` to those of a square: its centre comes to that of the square, moved."""
    turn = np.deg2rad(rng.uniform(-config.degrees, config.degrees))
    factor = rng.uniform(*config.scales)
    shear = np.tan(np.deg2rad(rng.uniform(-config.shear, config.shear, 2)))
    move = side * (0.5 + rng.uniform(-config.translate, config.translate, 2))
    cosine, sine = factor * np.cos(turn), factor * np.sin(turn)
    linear = np.array([[1, shear[0]], [shear[1], 1]]) @ np.array([[cosine, -sine], [sine, cosine]])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = move - linear @ np.array([size[1] / 2, size[0] / 2])
    return matrix


def mapped(sample: Sample, matrix: NDArray[np.float64], canvas: Canvas) -> Sample:
    """`sample` through `matrix` [3, 3] into the canvas. A box becomes the one around its four mapped corners."""
    inverse = np.linalg.inv(matrix)
    pixels = Image.fromarray(sample.pixels).transform(
        (canvas.side, canvas.side),
        Image.Transform.AFFINE,
        tuple(inverse[:2].ravel()),
        resample=Image.Resampling.BILINEAR,
        fillcolor=canvas.fill,
    )
    x, y = sample.boxes[:, [0, 2, 0, 2]], sample.boxes[:, [1, 1, 3, 3]]  # [G, 4] corners each
    corners = np.stack([x, y, np.ones_like(x)]).astype(np.float64)
    across, down, _ = np.einsum("ij,jgk->igk", matrix, corners)
    sides = [f(values, axis=1) for f in (np.min, np.max) for values in (across, down)]
    boxes = np.stack(sides, axis=1).astype(np.float32)
    size = (canvas.side, canvas.side)
    drawn = replace(sample, pixels=np.asarray(pixels), boxes=boxes, scale=(1.0, 1.0), original_size=size)
    return visible(drawn)
