"""A COCO instances file, read once from beginning to end and checked entry by entry.

The service judges files by this before a job is stored, and the training reads them by it: what one refuses the
other refuses, in the same words. Nothing keeps a Python object per box: train2017 has 860 000 of them. Standard
library alone: the service starts a process per check.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Container, Mapping
from typing import BinaryIO, NamedTuple

from crosskd.spec.coco import fields
from crosskd.spec.coco.fields import Entry, Faults
from crosskd.spec.coco.json_stream import JsonStream, NotJson

CROWD, IGNORE = 1, 2  # bits of `Instances.flags`


class Category(NamedTuple):
    where: str
    id: int
    name: str
    supercategory: str


class _Uses(NamedTuple):
    """How often an id is named that is not known yet, and where first."""

    where: str
    number: int


class Instances:
    """N images and M boxes in the file's order; in a file with faults, those entries that have none."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.positions: dict[int, int] = {}  # image id -> its place among the images
        self.names: list[str] = []  # [N] relative to the image folder
        self.sizes = array("q")  # [2 N] height, width
        self.unsized: set[int] = set()  # places of images whose width or height is at fault
        self.categories: dict[int, Category] = {}  # those that boxes can be of, by ascending id
        self.unused: list[Category] = []  # of a name that another category has, and without boxes: left out
        self.annotation_count = 0
        self.ids = array("q")  # [M] annotation ids
        self.images = array("q")  # [M] image ids
        self.labels = array("q")  # [M] category ids
        self.flags = array("b")  # [M] CROWD | IGNORE
        self.boxes = array("d")  # [4 M] x, y, width, height in pixels, as the file has them
        self.areas = array("d")  # [M] NaN where the file has none


def read_instances(file: BinaryIO, *, categories_alone: bool = False, faults: Faults | None = None) -> Instances:
    """What `file` holds. All faults of the format are in its `faults`, a text that is no JSON among them.

    With `categories_alone` nothing but the categories is kept and need be there.
    """
    reader = _Reader(categories_alone, faults)
    stream = JsonStream(file)
    try:
        reader.walk(stream)
        stream.end()
    except NotJson as error:
        reader.found.faults.add(
            "", f"it is not a readable JSON file: {error}", "Give a COCO instances file.", kind="file"
        )
    return reader.found


class _Reader:
    """Walks a file once; its sections may come in any order."""

    def __init__(self, categories_alone: bool, faults: Faults | None) -> None:
        self.found = Instances(faults)
        self._categories_alone = categories_alone
        self._faults = self.found.faults
        self._annotations: set[int] = set()
        self._categories: dict[int, Category] = {}
        self._image_uses: dict[int, _Uses] = {}
        self._category_uses: dict[int, _Uses] = {}

    def walk(self, stream: JsonStream) -> None:
        readers: dict[str, Callable[[str, Entry], None]] = {
            "images": self._image,
            "annotations": self._annotation,
            "categories": self._category,
        }
        if self._categories_alone:
            readers = {"annotations": self._category_use, "categories": self._category}
        if stream.peek() != "{":
            stream.value()
            self._faults.add("", "the top level must be an object with images, annotations and categories", kind="file")
            return
        seen: set[str] = set()
        unread: set[str] = set()
        for key in stream.members():
            if key not in readers:
                _skip(stream)
            elif key in seen:
                self._faults.add(key, "stands in the file twice", kind="file")
                _skip(stream)
            elif stream.peek() != "[":
                self._faults.add(key, "must be an array", kind="file")
                stream.value()
                unread.add(key)
            else:
                self._section(key, stream, readers[key])
            seen.add(key)
        for key in ["categories"] if self._categories_alone else readers:
            if key not in seen:
                self._faults.add("", f"the key {key!r} is missing", kind="file")
                unread.add(key)
        if self._categories_alone:
            unread.update(("images", "categories"))
        # Without its section every reference would be unknown, which helps nobody.
        if "images" not in unread:
            self._close("image_id", "image", self._image_uses, self.found.positions)
        if "categories" not in unread:
            self._close("category_id", "category", self._category_uses, self._categories)
        self._one_category_a_name()

    def _section(self, key: str, stream: JsonStream, read: Callable[[str, Entry], None]) -> None:
        index = -1
        for index, entry in enumerate(stream.elements()):
            where = f"{key}[{index}]"
            if isinstance(entry, dict):
                read(where, entry)
            elif not self._categories_alone or key == "categories":
                self._faults.add(where, "must be an object")
        if index < 0 and key != "annotations":  # images without any box are legal
            self._faults.add(key, "is empty", kind="file")

    def _close(self, key: str, what: str, uses: Mapping[int, _Uses], known: Container[int]) -> None:
        """Settle what was used before it was known: one fault an id, however many boxes name it."""
        for id_, use in uses.items():
            if id_ not in known:
                more = f", which {use.number} annotations name" if use.number > 1 else ""
                self._faults.add(f"{use.where}.{key}", f"there is no {what} with id {id_}{more}", kind="reference")

    def _one_category_a_name(self) -> None:
        """Of categories with one name, those without boxes are left out: Roboflow's root often has a class's name."""
        by_name: defaultdict[str, list[Category]] = defaultdict(list)
        for category in self._categories.values():
            by_name[category.name].append(category)
        kept = []
        for namesakes in by_name.values():
            used = [category for category in namesakes if category.id in self._category_uses]
            # The root comes first, and stands for no class; without boxes any other is as good.
            kept.append(used[0] if used else namesakes[-1])
            self.found.unused += [each for each in namesakes if each not in used and each is not kept[-1]]
            for other in used[1:]:
                first = used[0]
                detail = f"{other.name!r} is the name of {first.where} too, and both have boxes (ids {first.id}, "
                remedy = "Give both one id if they are one class, or else names of their own."
                self._faults.add(f"{other.where}.name", f"{detail}{other.id})", remedy, kind="same_name")
        self.found.categories = {each.id: each for each in sorted(kept, key=lambda category: category.id)}

    def _image(self, where: str, image: Entry) -> None:
        faults, found = self._faults, self.found
        key = fields.identifier(image, "id", where, faults)
        name = fields.text(image, "file_name", where, faults)
        if name is not None and (fault := fields.unsafe_name(name)):
            faults.add(f"{where}.file_name", f"{fields.short(name)} {fault}", kind="name")
        width, height = (fields.side(image, side, where, faults) for side in ("width", "height"))
        if key is None:
            return
        if key in found.positions:
            faults.add(f"{where}.id", f"{key} stands in the file twice", kind="duplicate_id")
            return
        # Kept even with faults elsewhere, or each of its boxes would be told of as belonging to no image.
        found.positions[key] = len(found.names)
        if width is None or height is None:
            found.unsized.add(found.positions[key])
        found.names.append(name or "")
        found.sizes.extend((height or 1, width or 1))

    def _annotation(self, where: str, annotation: Entry) -> None:
        faults, found = self._faults, self.found
        before = faults.count
        found.annotation_count += 1
        key = fields.identifier(annotation, "id", where, faults)
        if key is not None:
            if key in self._annotations:
                faults.add(f"{where}.id", f"{key} stands in the file twice", kind="duplicate_id")
            self._annotations.add(key)
        image = fields.identifier(annotation, "image_id", where, faults)
        category = fields.identifier(annotation, "category_id", where, faults)
        if image is not None and image not in found.positions:
            _note(self._image_uses, image, where)
        if category is not None:
            _note(self._category_uses, category, where)
        box = fields.box(annotation, where, faults)
        area = fields.area(annotation, where, faults)
        crowd, ignore = (fields.flag(annotation, name, where, faults) for name in ("iscrowd", "ignore"))
        if faults.count > before or key is None or image is None or category is None or box is None:
            return
        found.ids.append(key)
        found.images.append(image)
        found.labels.append(category)
        found.flags.append(CROWD * crowd | IGNORE * ignore)
        found.boxes.extend(box)
        found.areas.append(math.nan if area is None else area)

    def _category_use(self, where: str, annotation: Entry) -> None:
        category = fields.identifier(annotation, "category_id", where, Faults())
        if category is not None:
            _note(self._category_uses, category, where)

    def _category(self, where: str, category: Entry) -> None:
        name = fields.text(category, "name", where, self._faults)
        if name is None:
            name = where
        elif len(name) > fields.MAX_NAME:
            self._faults.add(f"{where}.name", f"is longer than {fields.MAX_NAME} characters")
        key = fields.identifier(category, "id", where, self._faults)
        if key is None:
            return
        if key in self._categories:
            self._faults.add(f"{where}.id", f"{key} stands in the file twice", kind="duplicate_id")
            return
        above = category.get("supercategory")
        self._categories[key] = Category(where, key, name, above if isinstance(above, str) else "")


def _note(uses: dict[int, _Uses], id_: int, where: str) -> None:
    known = uses.get(id_)
    uses[id_] = _Uses(where, 1) if known is None else _Uses(known.where, known.number + 1)


def _skip(stream: JsonStream) -> None:
    """Walk a section that nobody reads, in the memory of its largest element."""
    if stream.peek() == "[":
        for _ in stream.elements():
            pass
    else:
        stream.value()
