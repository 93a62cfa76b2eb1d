"""Terms that compare maps within a region (`imitation`, `fgfi`, `defeat`), against loops over cells and channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from crosskd.distill.maps.cells import near_boxes
from crosskd.distill.term import Step, Term
from crosskd.spec.config import DistillConfig
from crosskd.spec.distill.pairing import resolve_pair
from crosskd.structures import Targets
from tests.support import small, steps

Cell = tuple[int, int, int, int]  # image, level, row, column
Box = list[float]


def cells() -> list[Cell]:
    return [
        (n, level, i, j)
        for n in range(2)
        for level, (height, width) in enumerate(steps.SIZES)
        for i in range(height)
        for j in range(width)
    ]


def iou(a: Box, b: Box) -> float:
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def in_boxes(step: Step, _: Term) -> set[Cell]:
    found = set()
    for n, level, i, j in cells():
        x, y = j * 8 * 2**level, i * 8 * 2**level
        if any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in step.targets.boxes[n].tolist()):
            found.add((n, level, i, j))
    return found


def positive(step: Step, _: Term) -> set[Cell]:
    """Of one anchor a cell."""
    labels = [label for of_image in step.student.assignment.labels.tolist() for label in of_image]
    return {cell for cell, label in zip(cells(), labels, strict=True) if label < small.CLASSES}


def near(step: Step, term: Term) -> set[Cell]:
    """Of anchors of side 8 strides, centred on their cell's upper left corner."""
    overlaps: dict[Cell, Callable[[Box], float]] = {}
    for n, level, i, j in cells():
        stride, (height, width) = 8 * 2**level, step.targets.padded[n]
        x, y, half = j * stride, i * stride, 4 * stride
        if i < math.ceil(height / stride) and j < math.ceil(width / stride):
            overlaps[n, level, i, j] = lambda box, a=[x - half, y - half, x + half, y + half]: iou(a, box)
    found = set()
    for n, boxes in enumerate(step.targets.boxes):
        for box in boxes.tolist():
            of_image = {cell: overlap(box) for cell, overlap in overlaps.items() if cell[0] == n}
            least = term.config.share * max(of_image.values())  # type: ignore[attr-defined]
            found |= {cell for cell, overlap in of_image.items() if overlap > least}
    return found


def of_size(step: Step, _: Term) -> set[Cell]:
    found = set()
    for n, boxes in enumerate(step.targets.boxes):
        for x1, y1, x2, y2 in boxes.tolist():
            side = math.sqrt((x2 - x1 + 1) * (y2 - y1 + 1))
            level = min(max(math.floor(math.log2(side / 112)), 0), 4)
            left, top, right, bottom = (int(edge / (8 * 2**level)) for edge in (x1, y1, x2, y2))
            if left == right or top == bottom:
                right, bottom = max(right, left + 1), max(bottom, top + 1)
            found |= {(n, level, i, j) for i in range(top, bottom) for j in range(left, right)}
    return found & set(cells())


def mean(region: set[Cell], squares: dict[Cell, float], channels: int) -> list[float]:
    levels = []
    for level in range(5):
        values = [value for cell, value in squares.items() if cell[1] == level and cell in region]
        levels.append(sum(values) / max(1, len(values) * channels))
    return levels


def imitation(region: set[Cell], squares: dict[Cell, float], channels: int) -> dict[str, list[float]]:
    return {"imitation": [3 * value for value in mean(region, squares, channels)]}


def fgfi(region: set[Cell], squares: dict[Cell, float], channels: int) -> dict[str, list[float]]:
    sums = [sum(squares[cell] for cell in region if cell[1] == level) for level in range(5)]
    return {"fgfi": [3 * value / (2 * max(1, len(region))) for value in sums]}


def defeat(region: set[Cell], squares: dict[Cell, float], channels: int) -> dict[str, list[float]]:
    parts = {"defeat_foreground": (3, region), "defeat_background": (5, set(cells()) - region)}
    means = {name: (weight, mean(part, squares, channels)) for name, (weight, part) in parts.items()}
    return {name: [weight / 5 * value / 2 for value in values] for name, (weight, values) in means.items()}


Rows = list[tuple[str, dict[str, Any], Callable[[Step, Term], set[Cell]], Callable[..., dict[str, list[float]]]]]
TERMS: Rows = [
    ("imitation", {"region": "inside_boxes", "weight": 3}, in_boxes, imitation),
    ("imitation", {"weight": 3}, positive, imitation),
    ("fgfi", {"weight": 3}, near, fgfi),
    ("fgfi", {"weight": 3, "share": 0.8}, near, fgfi),
    ("defeat", {"foreground_weight": 3, "background_weight": 5}, of_size, defeat),
]
# Boxes of two sizes, one of less than a cell; the second image has columns of batch padding, where its box reaches.
TWO = steps.targets([[[4, 6, 40, 50], [20, 10, 60, 30], [33, 33, 38, 39]], [[9, 3, 64, 60]]])
WIDE = steps.targets([[[0, 0, 96, 64]], [[1, 3, 22, 60]]])


@pytest.mark.parametrize("targets", [TWO, WIDE, steps.EMPTY], ids=["boxes", "a box of all", "no boxes"])
@pytest.mark.parametrize(("name", "knobs", "region", "formula"), TERMS)
def test_the_losses_are_the_papers(
    name: str,
    knobs: dict[str, Any],
    region: Callable[[Step, Term], set[Cell]],
    formula: Callable[..., dict[str, list[float]]],
    targets: Targets,
) -> None:
    student, teacher = steps.detector(0), steps.detector(1, channels=16)
    term, step = steps.term(name, student, teacher, **knobs), steps.step(student, teacher, targets)
    ways = [module for key, module in term.named_modules() if key.count(".") == 1]
    mine = [way(maps).tolist() for way, maps in zip(ways, step.student.features, strict=True)]
    theirs = [maps.tolist() for maps in step.teacher.features]
    squares = {
        (n, level, i, j): sum((mine[level][n][c][i][j] - theirs[level][n][c][i][j]) ** 2 for c in range(16))
        for n, level, i, j in cells()
    }
    found, expected = term(step), formula(region(step, term), squares, 16)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        torch.testing.assert_close(found[key], torch.tensor(values, dtype=torch.float64), **steps.TIGHT)
    some = bool(len(targets.boxes[0])) or name == "defeat"
    assert any(values.any() for values in found.values()) == some
    assert all(
        gradient.any() == values.any()
        for gradient, values in zip(steps.gradients(term, step), sum(found.values()), strict=True)  # type: ignore[arg-type]
    )
    small.total(term(step)).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_where_the_widths_agree_only_the_papers_of_adapters_have_one() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    found = {name: steps.term(name, student, teacher).adapters() for name in ("imitation", "fgfi", "defeat")}
    assert found["imitation"] == {}
    for name in ("fgfi", "defeat"):
        assert set(found[name]) == {f"adapt.{level}" for level in range(5)}
        assert all("kernel_size=(3, 3)" in words for words in found[name].values())


def test_a_cell_is_near_a_box_if_any_of_its_anchors_is() -> None:
    """RetinaNet has nine a cell. The last 32 of 96 columns of the image are batch padding."""
    head = steps.detector(0, detector="retinanet").head
    anchors = head.anchors(steps.SIZES, torch.zeros(1, dtype=torch.float64))
    targets = replace(steps.targets([[[16, 8, 70, 40]]]), padded=[(64, 64)])
    found = near_boxes(anchors, targets, steps.SIZES, head.strides, 0.5)
    best: dict[Cell, float] = {}  # of the nine
    boxes = iter(anchors.boxes().tolist())
    for level, (height, width) in enumerate(steps.SIZES):
        for i in range(height):
            for j in range(width):
                overlap = max(iou(next(boxes), [16, 8, 70, 40]) for _ in range(9))
                best[0, level, i, j] = overlap if j < math.ceil(64 / (8 * 2**level)) else 0.0
    expected = {cell for cell, overlap in best.items() if overlap > 0.5 * max(best.values())}
    assert expected == {cell for cell in best if found[cell[1]][0, 0, cell[2], cell[3]]}
    assert len({level for _, level, _, _ in expected}) > 1


REGIONS = small.two_stage_config()


@pytest.mark.parametrize(
    ("distill", "student", "where", "match"),
    [
        ({"imitation": {}}, REGIONS, "/distill/imitation/region", "a faster_rcnn student has none"),
        ({"fgfi": {}}, small.config(detector="fcos"), "/student/detector", "a fcos student has no anchor boxes"),
        ({"imitation": {"region": "inside_boxes"}}, REGIONS, None, ""),
        ({"fgfi": {}}, REGIONS, None, ""),
        ({"defeat": {}}, REGIONS, None, ""),
        ({"defeat": {}, "imitation": {}}, small.config(detector="fcos"), None, ""),
    ],
)
def test_a_student_without_what_a_region_is_made_of_is_refused_in_words(
    distill: dict[str, Any], student: Any, where: str | None, match: str
) -> None:
    _, found = resolve_pair(DistillConfig.model_validate(distill), student, student)
    assert [fault.where for fault in found] == ([where] if where else [])
    assert all(match in fault.what and fault.remedy for fault in found)
