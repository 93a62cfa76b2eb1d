"""Boxes in another form than COCO's are known, and COCO's own are never taken for one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from crosskd.spec.coco.box_form import find_wrong_form
from crosskd.spec.coco.instances import Instances

WIDTH, HEIGHT = 640, 480
Box = tuple[float, float, float, float]


def found(boxes: list[Box]) -> Instances:
    instances = Instances()
    instances.positions[1] = 0
    instances.names.append("a.jpg")
    instances.sizes.extend((HEIGHT, WIDTH))
    for index, box in enumerate(boxes):
        instances.ids.append(index)
        instances.images.append(1)
        instances.boxes.extend(box)
    return instances


def drawn(count: int, reach: float = 1.0, seed: int = 0) -> list[Box]:
    """Boxes of all sizes anywhere in the image; above 1, `reach` carries them out of it."""
    draw = random.Random(seed)
    boxes = []
    for _ in range(count):
        w, h = draw.uniform(4, WIDTH), draw.uniform(4, HEIGHT)
        x, y = draw.uniform(0, WIDTH - w), draw.uniform(0, HEIGHT - h)
        boxes.append((x, y, w * reach, h * reach))
    return boxes


FORMS: dict[str, Callable[[Box], Box]] = {
    "corners x1, y1, x2, y2": lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]),
    "corners y1, x1, y2, x2": lambda b: (b[1], b[0], b[1] + b[3], b[0] + b[2]),
    "centre x, centre y, width, height": lambda b: (b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]),
    "y, x, height, width": lambda b: (b[1], b[0], b[3], b[2]),
    "relative to the image's size": lambda b: (b[0] / WIDTH, b[1] / HEIGHT, b[2] / WIDTH, b[3] / HEIGHT),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_each_form_is_named(form: str, seed: int) -> None:
    finding = find_wrong_form(found([FORMS[form](box) for box in drawn(40, seed=seed)]))
    assert finding is not None
    assert finding.certain
    assert form in finding.detail
    assert finding.remedy


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("count", "reach"), [(3, 1.0), (20, 1.0), (200, 1.0), (20, 1.3), (200, 1.3), (200, 3.0)])
def test_cocos_own_form_is_never_refused(count: int, reach: float, seed: int) -> None:
    """Amodal data too, whose boxes reach out of their image."""
    finding = find_wrong_form(found(drawn(count, reach, seed)))
    assert finding is None or not finding.certain


@pytest.mark.parametrize("boxes", [[], [(0, 0, 1, 1)], [(0, 0, 700, 500)] * 2, [(5, 5, 0, 0)] * 30])
def test_too_little_says_nothing(boxes: list[Box]) -> None:
    assert find_wrong_form(found(boxes)) is None
