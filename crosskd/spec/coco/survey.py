"""What one use of a COCO file takes of it: images and boxes, and all that is dropped, clipped or left out, by kind.

The service tells it in its answer, the training in its log and its manifest; both ask `survey`.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypedDict

from crosskd.spec.coco.box_form import find_wrong_form
from crosskd.spec.coco.instances import CROWD, IGNORE, Instances

LISTED = 5  # ids, or names, that a remark spells out
CLIPPED = 0.01  # pixels: below it a number was rounded
Of = Literal["annotations", "images", "categories"]
Split = Literal["train", "val"]
_ONE: dict[Of, str] = {"annotations": "annotation", "images": "image", "categories": "category"}
CHECK_BBOX = "Check that each `bbox` is x, y, width, height in pixels of its own image."


class RemarkValues(TypedDict):
    """A `Remark` as JSON."""

    kind: str
    count: int
    detail: str
    of: Of
    ids: list[int]
    remedy: str


@dataclass(frozen=True)
class Remark:
    """Something that a file's user should know, and that stops nothing.

    `count` entries of `of` are concerned; `ids` are the first of their ids.
    """

    kind: str
    count: int
    detail: str
    of: Of
    ids: list[int]
    remedy: str

    def values(self) -> RemarkValues:
        return RemarkValues(
            kind=self.kind, count=self.count, detail=self.detail, of=self.of, ids=self.ids, remedy=self.remedy
        )

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.ids) else ""
        noun = _ONE[self.of] if self.count == 1 else self.of
        ids = f" ({noun} {', '.join(map(str, self.ids))}{more})"
        return f"{self.detail}{ids if self.ids else ''}. {self.remedy}".rstrip()


@dataclass(frozen=True)
class Use:
    """How a split is read. `classes` is the label order; None: every category by ascending id."""

    split: Split
    classes: Sequence[str] | None = None
    min_side: float = 0.0
    drop_empty: bool = False
    min_image_side: int = 0
    as_is: bool = False  # an evaluation takes the boxes as they stand in the file

    def values(self) -> dict[str, Any]:
        return {**asdict(self), "classes": None if self.classes is None else list(self.classes)}


@dataclass
class Survey:
    """`problem` is why the split cannot be used, and what to do; both empty if it can."""

    classes: list[str]  # in label order
    flat: array[float] = field(default_factory=lambda: array("d"))  # x1 y1 x2 y2 of a kept box, clipped, and its area
    whole: array[int] = field(default_factory=lambda: array("q"))  # its image's place, label, crowd, ignore, trains
    images: array[int] = field(default_factory=lambda: array("q"))  # places of the images that are read
    boxes: int = 0  # that train
    left_out: int = 0  # boxes of which nothing lies in their image, or that have no size
    remarks: list[Remark] = field(default_factory=list)
    problem: str = ""
    remedy: str = ""


class _Tally:
    """Counts, and the first ids."""

    def __init__(self) -> None:
        self.count = 0
        self.ids: list[int] = []

    def add(self, id_: int) -> None:
        self.count += 1
        if len(self.ids) < LISTED:
            self.ids.append(id_)


def survey(found: Instances, use: Use) -> Survey:
    """What `use` takes of a file without faults. `use.classes` that the file lacks have no boxes."""
    names = {key: category.name for key, category in found.categories.items()}
    result = Survey(list(use.classes) if use.classes is not None else list(names.values()))
    if (form := find_wrong_form(found)) is not None:
        if form.certain:
            result.problem, result.remedy = form.detail, form.remedy
            return result
        result.remarks.append(Remark("wrong_form", form.count, form.detail, "annotations", [], form.remedy))
    tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
    _take_boxes(found, use, result, tallies)
    _take_images(found, use, result, tallies)
    _remark(found, use, result, tallies)
    return result


def _take_boxes(found: Instances, use: Use, result: Survey, tallies: defaultdict[str, _Tally]) -> None:
    by_name = {name: label for label, name in enumerate(result.classes)}
    labels = {key: by_name.get(category.name, -1) for key, category in found.categories.items()}
    values = iter(found.boxes)
    boxes = zip(values, values, values, values, strict=True)
    rows = zip(found.ids, found.images, found.labels, found.flags, found.areas, boxes, strict=True)
    for id_, image, category, flags, area, (x, y, w, h) in rows:
        label = labels[category]
        if label < 0:
            tallies["other_class"].add(id_)
            continue
        place = found.positions[image]
        height, width = found.sizes[2 * place], found.sizes[2 * place + 1]
        x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
        if x2 <= x1 or y2 <= y1:
            tallies["outside" if w > 0 and h > 0 else "no_size"].add(id_)
            result.left_out += 1
            continue
        if x < -CLIPPED or y < -CLIPPED or x + w > width + CLIPPED or y + h > height + CLIPPED:
            tallies["clipped"].add(id_)
        crowd, ignore = bool(flags & CROWD), bool(flags & IGNORE)
        wide = min(x2 - x1, y2 - y1) >= use.min_side
        if crowd or ignore:
            tallies["crowd"].add(id_)
        elif not wide:
            tallies["narrow"].add(id_)
        trains = wide and not crowd and not ignore
        result.boxes += trains
        result.flat.extend((x1, y1, x2, y2, w * h if math.isnan(area) else area))
        result.whole.extend((place, label, crowd, ignore, trains))


def _take_images(found: Instances, use: Use, result: Survey, tallies: defaultdict[str, _Tally]) -> None:
    filled = set(result.whole[::5])  # as in MMDetection: a box that trains nothing does not make an image empty
    if use.drop_empty and not result.boxes:
        result.problem = "no image has a box that trains"
        result.remedy = "Check the boxes and `classes`, or set loader.drop_empty to false."
        return
    for id_, place in found.positions.items():
        if use.drop_empty and place not in filled:
            tallies["empty_image"].add(id_)
        elif min(found.sizes[2 * place : 2 * place + 2]) < use.min_image_side:
            tallies["small_image"].add(id_)
        else:
            result.images.append(place)
    if not result.images:
        result.problem = f"no image has a shorter side of {use.min_image_side} pixels or more"
        result.remedy = "Lower loader.min_image_side."


def _remark(found: Instances, use: Use, result: Survey, tallies: dict[str, _Tally]) -> None:
    """From what was counted to remarks; those that most likely mean a mistake come first."""
    all_boxes, all_images, train = len(found.ids), len(found.names), use.split == "train"
    left_out, clipped = ("are evaluated as they stand",) * 2 if use.as_is else ("are left out", "are clipped to it")
    kinds: list[tuple[str, Of, int, str, str]] = [
        ("outside", "annotations", all_boxes, f"lie outside their image and {left_out}", CHECK_BBOX),
        ("no_size", "annotations", all_boxes, f"have no width or no height and {left_out}", CHECK_BBOX),
        ("clipped", "annotations", all_boxes, f"reach out of their image and {clipped}", CHECK_BBOX),
    ]
    if train:
        narrow = f"are narrower than {use.min_side:g} pixels and train nothing"
        small = f"have a shorter side below {use.min_image_side} pixels and are left out"
        empty = "have no box and are left out"
        kinds += [
            ("narrow", "annotations", all_boxes, narrow, "augment.min_side sets the bound."),
            ("crowd", "annotations", all_boxes, "are crowds or ignored and train nothing", ""),
            ("empty_image", "images", all_images, empty, "Set loader.drop_empty to false to keep them."),
            ("small_image", "images", all_images, small, "loader.min_image_side sets the bound."),
        ]
    other = "are of categories that are not learnt and are left out"
    kinds.append(("other_class", "annotations", all_boxes, other, "`classes` says which are."))
    for kind, of, total, what, remedy in kinds:
        if (tally := tallies.get(kind)) is not None:
            noun = "images" if of == "images" else "boxes"
            result.remarks.append(
                Remark(kind, tally.count, f"{tally.count} of {total} {noun} {what}", of, tally.ids, remedy)
            )
    result.remarks += [*_classes_without_boxes(found, use, result), *_unused_categories(found)]


def _classes_without_boxes(found: Instances, use: Use, result: Survey) -> list[Remark]:
    index = 4 if use.split == "train" else None  # what validates need not train
    boxed = {
        label
        for row, label in enumerate(result.whole[1::5])
        if (result.whole[5 * row + index] if index else not result.whole[5 * row + 2])
    }
    empty = {name for label, name in enumerate(result.classes) if label not in boxed}
    if not empty:
        return []
    categories = [category for category in found.categories.values() if category.name in empty]
    above = {category.supercategory for category in found.categories.values() if category.name not in empty}
    roots = [category.name for category in categories if category.name in above]
    what = "have no box that trains" if use.split == "train" else "have no box here, and no AP"
    detail = f"{len(empty)} of {len(result.classes)} classes {what}: {_listed(n for n in result.classes if n in empty)}"
    if roots:
        remedy = f"{_listed(roots)} only stands above others, as Roboflow's root does: leave it out by `data.classes`."
    else:
        remedy = "Leave them out by `data.classes`, or give them boxes."
    return [Remark("empty_class", len(empty), detail, "categories", [c.id for c in categories][:LISTED], remedy)]


def _unused_categories(found: Instances) -> list[Remark]:
    if not found.unused:
        return []
    count = len(found.unused)
    listed = _listed(category.name for category in found.unused)
    detail = f"{count} categories without boxes have the name of another and are left out: {listed}"
    ids = [category.id for category in found.unused][:LISTED]
    return [Remark("same_name", count, detail, "categories", ids, "")]


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return ", ".join(map(repr, every[:LISTED])) + more
