"""Checks a COCO file in bounded time and memory: `python -m api.services.submission.coco_check SECONDS < FILE`

A process of its own, so that a 450 MB file costs the API neither its interpreter nor its memory. It is given the file
open, since a path may lead elsewhere a moment later. It prints one JSON object, a `Report`. It imports the standard
library alone: starting it takes milliseconds.

What is refused here is what the training's data set refuses (crosskd.data.annotations; a test holds the two
together). Boxes that reach out of their image or are empty are not: the loader clips and drops them, as the
published data sets need.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Callable, Container, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypedDict

from api.services.submission.json_stream import JsonStream, NotJson

VERSION = 2  # of the rules and messages below; an older result in the cache is not used
MAX_FAULTS = 20
MAX_MEMORY = 1 << 30  # bytes of address space; COCO's own 450 MB file needs a tenth
MAX_SIDE = 1_000_000  # pixels
MAX_NAME = 200  # characters, as TrainConfig bounds class names
Entry = dict[str, Any]


class CocoFault(TypedDict):
    """`where` is a position in the file, such as `annotations[17].bbox`; empty: the file as a whole."""

    where: str
    detail: str


class Report(TypedDict):
    """`faults` are the first of `fault_count`; `classes` the category names by ascending id.

    `boxes` counts the annotations that can train: neither crowd nor ignored nor empty.
    """

    version: int
    classes: list[str]
    images: int
    annotations: int
    boxes: int
    faults: list[CocoFault]
    fault_count: int


class CocoCheck:
    """Walks a file once. Keeps ids, never the entries."""

    def __init__(self) -> None:
        self._faults: list[CocoFault] = []
        self._fault_count = 0
        self._images: set[int] = set()
        self._annotations: set[int] = set()
        self._categories: dict[int, str] = {}
        self._names: set[str] = set()
        # First use of an id that is not known yet: the sections may come in any order.
        self._open_images: dict[int, str] = {}
        self._open_categories: dict[int, str] = {}
        self._annotation_count = 0
        self._box_count = 0

    def run(self, file: BinaryIO) -> Report:
        stream = JsonStream(file)
        try:
            self._walk(stream)
            stream.end()
        except NotJson as error:
            self._fault("", f"it is not a readable JSON file: {error}")
        return Report(
            version=VERSION,
            classes=[self._categories[key] for key in sorted(self._categories)],
            images=len(self._images),
            annotations=self._annotation_count,
            boxes=self._box_count,
            faults=self._faults,
            fault_count=self._fault_count,
        )

    def _walk(self, stream: JsonStream) -> None:
        readers: dict[str, Callable[[str, Entry], None]] = {
            "images": self._image,
            "annotations": self._annotation,
            "categories": self._category,
        }
        if stream.peek() != "{":
            stream.value()
            self._fault("", "the top level must be an object with images, annotations and categories")
            return
        seen: set[str] = set()
        unread: set[str] = set()
        for key in stream.members():
            if key not in readers:
                _skip(stream)
            elif key in seen:
                self._fault(key, "stands in the file twice")
                _skip(stream)
            elif stream.peek() != "[":
                self._fault(key, "must be an array")
                stream.value()
                unread.add(key)
            else:
                self._section(key, stream, readers[key])
            seen.add(key)
        for key in readers:
            if key not in seen:
                self._fault("", f"the key {key!r} is missing")
                unread.add(key)
        # Without its section every reference would be unknown, which helps nobody.
        if "images" not in unread:
            self._close("image_id", "image", self._open_images, self._images)
        if "categories" not in unread:
            self._close("category_id", "category", self._open_categories, self._categories)

    def _section(self, key: str, stream: JsonStream, read: Callable[[str, Entry], None]) -> None:
        index = -1
        for index, entry in enumerate(stream.elements()):
            where = f"{key}[{index}]"
            if isinstance(entry, dict):
                read(where, entry)
            else:
                self._fault(where, "must be an object")
        if index < 0 and key != "annotations":  # images without any box are legal
            self._fault(key, "is empty")

    def _close(self, key: str, what: str, uses: Mapping[int, str], known: Container[int]) -> None:
        """Settle what was used before it was known."""
        for id_, where in uses.items():
            if id_ not in known:
                self._fault(f"{where}.{key}", f"there is no {what} with id {id_}")

    def _image(self, where: str, image: Entry) -> None:
        key = self._id(image, "id", where)
        if key is not None:
            if key in self._images:
                self._fault(f"{where}.id", f"{key} stands in the file twice")
            self._images.add(key)
        name = self._text(image, "file_name", where)
        if name is not None and not _stays_inside(name):
            self._fault(f"{where}.file_name", f"{_short(name)} must be relative to the images folder and stay in it")
        for side in ("width", "height"):
            if not _is_side(image.get(side)):
                self._fault(f"{where}.{side}", _wrong(image, side, f"a whole number of pixels, 1 to {MAX_SIDE}"))

    def _annotation(self, where: str, annotation: Entry) -> None:
        self._annotation_count += 1
        key = self._id(annotation, "id", where)
        if key is not None:
            if key in self._annotations:
                self._fault(f"{where}.id", f"{key} stands in the file twice")
            self._annotations.add(key)
        image = self._id(annotation, "image_id", where)
        if image is not None and image not in self._images:
            self._open_images.setdefault(image, where)
        category = self._id(annotation, "category_id", where)
        if category is not None:
            self._open_categories.setdefault(category, where)
        if fault := _box_fault(annotation):
            self._fault(f"{where}.bbox", fault)
        area = annotation.get("area")
        if area is not None and not (_is_number(area) and area >= 0):
            self._fault(f"{where}.area", _wrong(annotation, "area", "a number from 0"))
        for flag in ("iscrowd", "ignore"):
            if annotation.get(flag) not in (None, 0, 1):
                self._fault(f"{where}.{flag}", _wrong(annotation, flag, "0 or 1"))
        if not (fault or annotation.get("iscrowd") or annotation.get("ignore")) and min(annotation["bbox"][2:]) > 0:
            self._box_count += 1

    def _category(self, where: str, category: Entry) -> None:
        name = self._text(category, "name", where)
        if name is None:
            name = where
        elif len(name) > MAX_NAME:
            self._fault(f"{where}.name", f"is longer than {MAX_NAME} characters")
        elif name in self._names:
            self._fault(f"{where}.name", f"{name!r} stands in the file twice")
        self._names.add(name)
        key = self._id(category, "id", where)
        if key is not None:
            if key in self._categories:
                self._fault(f"{where}.id", f"{key} stands in the file twice")
            self._categories[key] = name

    def _id(self, entry: Entry, key: str, where: str) -> int | None:
        value = entry.get(key)
        if type(value) is int and -(2**63) <= value < 2**63:  # not a bool
            return value
        self._fault(f"{where}.{key}", _wrong(entry, key, "a 64-bit whole number"))
        return None

    def _text(self, entry: Entry, key: str, where: str) -> str | None:
        value = entry.get(key)
        if isinstance(value, str) and value and "\0" not in value and _encodes(value):
            return value
        self._fault(f"{where}.{key}", _wrong(entry, key, "text of at least one character"))
        return None

    def _fault(self, where: str, detail: str) -> None:
        self._fault_count += 1
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(CocoFault(where=where, detail=detail))


def _box_fault(annotation: Entry) -> str:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return _wrong(annotation, "bbox", "four finite numbers: x, y, width, height")
    if box[2] < 0 or box[3] < 0:
        return f"has a negative width or height: {_short(box)}"
    return ""


def _is_number(value: Any) -> bool:
    """A finite number, and no boolean."""
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is int and abs(value) < 2**63


def _is_side(value: Any) -> bool:
    whole = type(value) is int or (type(value) is float and value.is_integer())  # some exporters write 640.0
    return whole and 0 < value <= MAX_SIDE


def _wrong(entry: Entry, key: str, expected: str) -> str:
    return f"must be {expected}, not {_short(entry[key])}" if key in entry else f"is missing: {expected}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _encodes(text: str) -> bool:
    """JSON can spell half a surrogate pair, which no file name and no database can."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _skip(stream: JsonStream) -> None:
    """Walk a section that nobody reads, in the memory of its largest element."""
    if stream.peek() == "[":
        for _ in stream.elements():
            pass
    else:
        stream.value()


def main(seconds: str) -> None:
    # Belt and braces: the API kills a check that is too slow; these hold when the API itself is gone.
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    cpu = math.ceil(float(seconds)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    os.nice(5)
    report = CocoCheck().run(sys.stdin.buffer)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
