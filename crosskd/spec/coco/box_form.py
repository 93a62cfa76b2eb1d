"""Tells boxes that were written in another form than COCO's x, y, width, height in pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from crosskd.spec.coco.instances import Instances

SLACK = 1.0  # pixels by which rounding may carry a box over the edge of its image
CLEARLY = 0.01  # of a side, and SLACK: what reaches further out was not rounded
FEW, MANY = 3, 20  # boxes: below FEW nothing can be said; from MANY on chance is out of the question
OUTSIDE = 0.25  # share of boxes out of their image from which another form is looked for

RELATIVE = "Multiply x and width by the image's width, y and height by its height."
_LEFT, _BELOW = "x1, y1, x2, y2", "y1, x1, y2, x2"


@dataclass(frozen=True)
class Finding:
    """What the boxes can only be, or seem to be (`certain` false)."""

    certain: bool
    count: int  # of boxes that say so
    detail: str
    remedy: str


_Numbers = tuple[float, float, float, float]
Fits = Callable[[float, float, float, float, float, float], bool]


def _corners(x1: float, y1: float, x2: float, y2: float, width: float, height: float) -> bool:
    return -SLACK <= x1 < x2 <= width + SLACK and -SLACK <= y1 < y2 <= height + SLACK


def _centre(x: float, y: float, w: float, h: float, width: float, height: float) -> bool:
    return _corners(x - w / 2, y - h / 2, x + w / 2, y + h / 2, width, height)


_FORMS: tuple[tuple[str, str, Fits], ...] = (
    (f"corners {_LEFT}", "Write `bbox` as [x1, y1, x2 - x1, y2 - y1].", _corners),
    (
        f"corners {_BELOW}",
        "Write `bbox` as [x1, y1, x2 - x1, y2 - y1].",
        lambda a, b, c, d, width, height: _corners(b, a, d, c, width, height),
    ),
    ("centre x, centre y, width, height", "Write `bbox` as [x - width / 2, y - height / 2, width, height].", _centre),
    (
        "y, x, height, width",
        "Exchange the two in `bbox`; or, if the images were turned, exchange their `width` and `height`.",
        lambda a, b, c, d, width, height: _corners(b, a, b + d, a + c, width, height),
    ),
)


def find_wrong_form(found: Instances) -> Finding | None:
    """The form that the boxes of a file were written in, if it is not COCO's own; None where nothing speaks of one.

    Another form is certain if a quarter of twenty boxes or more reaches out of the images as x, y, width, height, while
    99 % of all boxes lie inside as that form. Fewer boxes only let it be suspected.
    """
    total = len(found.ids)
    if total == 0:
        return None
    if _is_relative(found):
        detail = f"all {total} boxes lie within 1 x 1 pixel: they can only be relative to the image's size"
        return Finding(True, total, detail, RELATIVE)
    if total < FEW:
        return None
    outside = sum(_reaches_out(box, size) for box, size in _boxes(found))
    if outside < OUTSIDE * total:
        return None
    likely = [form for form in _FORMS if sum(form[2](*box, *size) for box, size in _boxes(found)) >= 0.99 * total]
    if not likely:
        return None
    names = " or ".join(name for name, _, _ in likely)
    certain = total >= MANY
    can = "can only be" if certain else "seem to be"
    detail = f"{outside} of {total} boxes reach out of their image as x, y, width, height: they {can} {names}"
    return Finding(certain, outside, detail, likely[0][1])


def _boxes(found: Instances) -> Iterator[tuple[_Numbers, tuple[int, int]]]:
    """Each box as it stands, and width and height of its image; but for those of images without a sound size."""
    values = iter(found.boxes)
    for image, box in zip(found.images, zip(values, values, values, values, strict=True), strict=True):
        place = found.positions.get(image)
        if place is not None and place not in found.unsized:
            yield box, (found.sizes[2 * place + 1], found.sizes[2 * place])


def _reaches_out(box: _Numbers, size: tuple[int, int]) -> bool:
    (x, y, w, h), (width, height) = box, size
    return x + w > width + max(SLACK, CLEARLY * width) or y + h > height + max(SLACK, CLEARLY * height)


def _is_relative(found: Instances) -> bool:
    """All coordinates are shares of a side. Whole numbers alone may be boxes of a pixel in a corner."""
    if max(found.boxes) > 1.001 or min(found.boxes) < -0.5 or max(found.sizes) <= 2:
        return False
    return len(found.ids) >= FEW or any(not value.is_integer() for value in found.boxes)
