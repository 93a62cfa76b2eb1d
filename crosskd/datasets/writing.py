"""Writes the splits of a data set as COCO files, and says what they hold in one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crosskd.datasets.model import Source, SourceImage


def category_ids(source: Source) -> list[int]:
    """The ids of the classes as they are written."""
    return source.category_ids or list(range(1, len(source.classes) + 1))


def number_images(source: Source) -> None:
    """Give each image an id: the source's own where all have one and no two the same, else by their order from 1."""
    every = [image for _, images in source.ordered() for image in images]
    ids = {image.id for image in every}
    if None in ids or len(ids) < len(every):
        for number, image in enumerate(every, start=1):
            image.id = number


def write_split(path: Path, source: Source, images: list[SourceImage], first_box: int) -> int:
    """A COCO file; its annotations are numbered from `first_box` on. Returns the number after the last one's.

    Written entry by entry: a file of a million boxes is never in memory as one text.
    """
    ids = category_ids(source)
    categories = [{"id": id_, "name": name} for id_, name in zip(ids, source.classes, strict=True)]
    number = first_box
    with path.open("w", encoding="utf-8") as file:
        file.write('{"images": [')
        for place, image in enumerate(images):
            file.write(f"{',' if place else ''}\n{json.dumps(_image(image))}")
        file.write('\n],\n"annotations": [')
        for image in images:
            for box in _boxes(image, ids):
                file.write(f"{',' if number > first_box else ''}\n{json.dumps({'id': number, **box})}")
                number += 1
        file.write(f'\n],\n"categories": {json.dumps(categories)}}}\n')
    return number


def _image(image: SourceImage) -> dict[str, Any]:
    """By `sha256`, which COCO does not have, two versions of a data set are compared."""
    return {
        "id": image.id,
        "file_name": image.name,
        "width": image.width,
        "height": image.height,
        "sha256": image.sha256,
    }


def _boxes(image: SourceImage, ids: list[int]) -> Iterator[dict[str, Any]]:
    for box in image.boxes:
        entry = {
            "image_id": image.id,
            "category_id": ids[box.label],
            "bbox": [box.x, box.y, box.w, box.h],
            "area": box.w * box.h if box.area is None else box.area,
            "iscrowd": int(box.crowd),
        }
        yield {**entry, "ignore": 1} if box.ignore else entry


def digest(source: Source) -> str:
    """sha256 of the canonical content: classes in order; of each split its images by name, with size and sha256 of the
    file, and their boxes in order. Neither ids nor the place of the files are in it.
    """
    whole = hashlib.sha256()

    def add(*values: Any) -> None:
        whole.update(json.dumps(values, separators=(",", ":")).encode() + b"\n")

    add("crosskd data set", 1, source.classes)
    for name, images in source.ordered():
        add("split", name, len(images))
        for image in images:
            boxes = [
                (box.label, box.x, box.y, box.w, box.h, box.area, int(box.crowd), int(box.ignore))
                for box in image.boxes
            ]
            add(image.name, image.width, image.height, image.sha256, boxes)
    return whole.hexdigest()
