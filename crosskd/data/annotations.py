"""A COCO instances file, checked entry by entry and held as arrays.

Nothing here keeps a Python object per box: train2017 has 860 000 of them, and every loader worker would
copy them. Imports no torch.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosskd.data import fields
from crosskd.data.as_is import BoxesAsTheyStand
from crosskd.data.fields import LISTED, Findings
from crosskd.errors import DataError
from crosskd.spec import inputs


class PackedNames(Sequence[str]):
    """A list of strings in two arrays, so that a hundred thousand file names are two objects."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode() for name in names]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"no name {index} in {len(self)}")
        index %= len(self)
        data: bytes = self._bytes[self._ends[index] : self._ends[index + 1]].tobytes()
        return data.decode()


@dataclass(frozen=True)
class Annotations:
    """N images and their M boxes. Boxes of image i are rows `starts[i]:starts[i + 1]`, in the file's order."""

    path: Path
    classes: list[str]  # in label order
    image_ids: NDArray[np.int64]  # [N]
    names: Sequence[str]  # [N] file names, relative to the image folder
    sizes: NDArray[np.int64]  # [N, 2] height, width
    starts: NDArray[np.int64]  # [N + 1]
    boxes: NDArray[np.float64]  # [M, 4] x1 y1 x2 y2, original pixels, clipped to the image
    labels: NDArray[np.int64]  # [M]
    areas: NDArray[np.float64]  # [M] of the segmentation where the file says so, else of the box
    crowd: NDArray[np.bool_]  # [M] trains nothing; detections inside count neither as right nor as wrong
    ignore: NDArray[np.bool_]  # [M] trains nothing; a detection of it counts neither as right nor as wrong
    dropped: Findings  # boxes left out because nothing of them lies in their image
    as_is: BoxesAsTheyStand | None = (
        None  # the same boxes as the file has them, and those left out; None: not asked for
    )

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """Where image `index` has its boxes."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))


def read_annotations(path: Path | str, classes: Sequence[str] | None = None, *, as_is: bool = False) -> Annotations:
    """Read a COCO instances file.

    `classes` gives the label order, and leaves out boxes of other categories; the default is every category by
    ascending id. Boxes are clipped to their image; those with nothing left are dropped, counted and named. `as_is`
    keeps them besides as they stand in the file.

    Raises:
        DataError: the file cannot be read, is no JSON or breaks the format; all faults at once (first 20 spelt out).
    """
    path = Path(path)
    content = _load(path)
    faults, dropped = Findings(), Findings()
    categories = _categories(_section(content, "categories", faults), faults)
    names, ids, sizes = _images(_section(content, "images", faults), faults)
    entries = _section(content, "annotations", faults)
    order = list(classes) if classes is not None else [categories[key] for key in sorted(categories)]
    if classes is not None and faults.count == 0:
        _require_classes(order, categories, path)
    labels = {name: label for label, name in enumerate(order)}
    boxes = _Boxes({key: labels.get(name, -1) for key, name in categories.items()}, ids, sizes)
    boxes.as_is = BoxesAsTheyStand() if as_is else None
    for where, entry in _objects("annotations", entries, faults):
        boxes.add(where, entry, faults, dropped)
    faults.raise_for(path)
    return Annotations(
        path=path,
        classes=order,
        image_ids=np.array(list(ids), dtype=np.int64),
        names=PackedNames(names),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        dropped=dropped,
        as_is=boxes.as_is,
        **boxes.arrays(),
    )


def read_classes(path: Path | str) -> list[str]:
    """The category names of a COCO file by ascending id: the label order when a configuration gives none.

    Raises:
        DataError: the file cannot be read, or its categories are broken.
    """
    path, faults = Path(path), Findings()
    categories = _categories(_section(_load(path), "categories", faults), faults)
    faults.raise_for(path)
    return [categories[key] for key in sorted(categories)]


def _load(path: Path) -> dict[str, Any]:
    try:
        with inputs.opened(path).open(encoding="utf-8-sig") as file:
            # Polygons are four fifths of the file and train nothing: dropped as they are parsed, they never add up.
            content = json.load(file, object_hook=_without_segmentation)
    except OSError as error:
        raise DataError(
            f"cannot read the annotation file: {error.strerror}",
            where=str(path),
            remedy="Check the path and its permissions.",
        ) from None
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, a number of thousands of digits
        raise DataError(
            f"the annotation file is not JSON: {error}", where=str(path), remedy="Give a COCO instances file."
        ) from None
    if not isinstance(content, dict):
        raise DataError(
            f"the annotation file holds {fields.kind(content)}, not an object",
            where=str(path),
            remedy="Give a COCO instances file.",
        )
    return content


def _without_segmentation(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)
    return entry


def _section(content: dict[str, Any], key: str, faults: Findings) -> list[Any]:
    if key not in content:
        faults.add(f"there is no `{key}`")
        return []
    section = content[key]
    if not isinstance(section, list):
        faults.add(f"{key} is {fields.kind(section)}, not a list")
        return []
    if not section and key != "annotations":  # images without any box are legal
        faults.add(f"{key} is empty")
    return section


def _objects(key: str, section: list[Any], faults: Findings) -> Iterator[tuple[str, dict[str, Any]]]:
    for position, entry in enumerate(section):
        if isinstance(entry, dict):
            yield f"{key}[{position}]", entry
        else:
            faults.add(f"{key}[{position}] is {fields.kind(entry)}, not an object")


def _categories(section: list[Any], faults: Findings) -> dict[int, str]:
    """Category id -> name."""
    categories: dict[int, str] = {}
    names: set[str] = set()
    for where, entry in _objects("categories", section, faults):
        key = fields.integer(entry, "id", where, faults)
        name = fields.text(entry, "name", where, faults)
        if key is None or name is None:
            continue
        if key in categories:
            faults.add(f"{where}.id {key} is there twice")
        elif name in names:
            faults.add(f"{where}.name {name!r} is there twice")
        else:
            categories[key] = name
            names.add(name)
    return categories


def _require_classes(classes: list[str], categories: dict[int, str], path: Path) -> None:
    there = set(categories.values())
    missing = [name for name in classes if name not in there]
    if missing:
        raise DataError(
            f"{path.name} has no category {', '.join(map(repr, missing[:LISTED]))}",
            where=str(path),
            remedy=f"Its categories are: {', '.join(list(categories.values())[:100])}.",
        )


def _images(section: list[Any], faults: Findings) -> tuple[list[str], dict[int, int], list[tuple[int, int]]]:
    """File names, image id -> position, (height, width)."""
    names: list[str] = []
    ids: dict[int, int] = {}
    sizes: list[tuple[int, int]] = []
    for where, entry in _objects("images", section, faults):
        key = fields.integer(entry, "id", where, faults)
        name = fields.text(entry, "file_name", where, faults)
        height, width = (fields.side(entry, side, where, faults) for side in ("height", "width"))
        if name is not None and (fault := unsafe_name(name)):
            faults.add(f"{where}.file_name {name!r} {fault}")
        if key is not None and key in ids:
            faults.add(f"{where}.id {key} is there twice")
        elif key is not None:
            # Kept even with faults elsewhere, or each of its boxes would be reported as belonging to no image.
            ids[key] = len(names)
            names.append(name or "")
            sizes.append((height or 1, width or 1))
    return names, ids, sizes


def unsafe_name(name: str) -> str:
    """Why a file name could leave the image folder; empty if it cannot, links aside."""
    path = PurePosixPath(name)
    if path.is_absolute():
        return "is absolute; it must be relative to the image folder"
    if ".." in path.parts:
        return "leaves the image folder by `..`"
    return ""


class _Boxes:
    """Collects boxes into flat arrays, then groups them by image."""

    def __init__(self, labels: dict[int, int], ids: dict[int, int], sizes: list[tuple[int, int]]) -> None:
        self.labels, self.ids, self.sizes = labels, ids, sizes
        self.seen: set[int] = set()
        self.flat = array("d")  # x1 y1 x2 y2 area
        self.whole = array("q")  # image position, label, crowd, ignore
        self.as_is: BoxesAsTheyStand | None = None

    def add(self, where: str, entry: dict[str, Any], faults: Findings, dropped: Findings) -> None:
        before = faults.count
        key = fields.integer(entry, "id", where, faults)
        image_id = fields.integer(entry, "image_id", where, faults)
        category = fields.integer(entry, "category_id", where, faults)
        box = fields.box(entry, where, faults)
        area = fields.number(entry["area"], f"{where}.area", faults) if entry.get("area") is not None else None
        crowd, ignore = (fields.flag(entry, name, where, faults) for name in ("iscrowd", "ignore"))
        if key is not None and key in self.seen:
            faults.add(f"{where}.id {key} is there twice")
        elif key is not None:
            self.seen.add(key)
        if image_id is not None and image_id not in self.ids:
            faults.add(f"{where}.image_id {image_id} is no image of this file")
        if category is not None and category not in self.labels:
            faults.add(f"{where}.category_id {category} is no category of this file")
        if area is not None and area < 0:
            faults.add(f"{where}.area is negative ({area:g})")
        if faults.count > before or image_id is None or category is None or box is None:
            return
        label, image = self.labels[category], self.ids[image_id]
        if label < 0:  # a category that this configuration does not learn
            return
        height, width = self.sizes[image]
        x, y, w, h = box
        if self.as_is is not None and key is not None:
            self.as_is.add(key, image_id, label, crowd, box, w * h if area is None else area)
        x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
        if x2 <= x1 or y2 <= y1:
            dropped.add(f"{where}.bbox [{x:g}, {y:g}, {w:g}, {h:g}] in {width} x {height}")
            return
        self.flat.extend((x1, y1, x2, y2, w * h if area is None else area))
        self.whole.extend((image, label, crowd, ignore))

    def arrays(self) -> dict[str, Any]:
        flat = np.array(self.flat, dtype=np.float64).reshape(-1, 5)
        whole = np.array(self.whole, dtype=np.int64).reshape(-1, 4)
        order = np.argsort(whole[:, 0], kind="stable")
        flat, whole = flat[order], whole[order]
        return {
            "starts": np.searchsorted(whole[:, 0], np.arange(len(self.sizes) + 1)).astype(np.int64),
            "boxes": np.ascontiguousarray(flat[:, :4]),
            "areas": flat[:, 4].copy(),
            "labels": whole[:, 1].copy(),
            "crowd": whole[:, 2].astype(bool),
            "ignore": whole[:, 3].astype(bool),
        }
