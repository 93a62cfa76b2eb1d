"""Brings boxes to pixels and into their image; what cannot be kept is left out and counted."""

from __future__ import annotations

import math

from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.model import Box, Source, SourceImage
from crosskd.spec.coco.survey import CLIPPED

DECIMALS = 3  # of a pixel that was computed from a share of a side


def settle_boxes(source: Source, faults: DatasetFaults) -> None:
    """The boxes of all images, whose sizes are known by now: in pixels, clipped, none without area, none twice."""
    for _, images in source.ordered():
        for image in images:
            image.boxes = _settled(image, faults)
            image.relative = False


def _settled(image: SourceImage, faults: DatasetFaults) -> list[Box]:
    kept: list[Box] = []
    seen: set[tuple[int, float, float, float, float]] = set()
    for box in image.boxes:
        if image.relative:
            _to_pixels(box, image)
        if not _clip(box, image, faults):
            continue
        key = (box.label, box.x, box.y, box.w, box.h)
        if key in seen:
            faults.add(
                "duplicate_box", image.file, box.id, f"{image.name} has the same box of the same class before it"
            )
            continue
        seen.add(key)
        kept.append(box)
    return kept


def _to_pixels(box: Box, image: SourceImage) -> None:
    box.x, box.w = round(box.x * image.width, DECIMALS), round(box.w * image.width, DECIMALS)
    box.y, box.h = round(box.y * image.height, DECIMALS), round(box.h * image.height, DECIMALS)


def _clip(box: Box, image: SourceImage, faults: DatasetFaults) -> bool:
    """Cut the box to its image; False where it is to be left out."""
    told = f"{_text(box)} in {image.name}, {image.width} x {image.height}"
    if not (box.w > 0 and box.h > 0):
        faults.add("box_without_area", image.file, box.id, told)
        return False
    x1, y1 = max(box.x, 0.0), max(box.y, 0.0)
    x2, y2 = min(box.x + box.w, float(image.width)), min(box.y + box.h, float(image.height))
    if x2 <= x1 or y2 <= y1:
        faults.add("box_outside", image.file, box.id, told)
        return False
    out = max(-box.x, -box.y, box.x + box.w - image.width, box.y + box.h - image.height)
    if out > CLIPPED:
        faults.add("box_clipped", image.file, box.id, told)
    if out > 0:
        box.x, box.y = x1, y1
        box.w, box.h = round(x2 - x1, DECIMALS), round(y2 - y1, DECIMALS)
        # The area of a segmentation stays at most the box's; rounding may leave a sliver without any.
        box.area = None if box.area is None else min(box.area, box.w * box.h)
    if not (box.w > 0 and box.h > 0):
        faults.add("box_without_area", image.file, box.id, told)
        return False
    return math.isfinite(box.w * box.h)


def _text(box: Box) -> str:
    return f"x {box.x:.6g}, y {box.y:.6g}, width {box.w:.6g}, height {box.h:.6g}"
