"""A COCO instances file as arrays, for training and evaluation.

Nothing here keeps a Python object per box: train2017 has 860 000 of them, and every loader worker would copy them. What
is refused, and what is left out, is decided in crosskd/spec/coco, for the service too. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosskd.data.as_is import BoxesAsTheyStand
from crosskd.errors import DataError
from crosskd.spec import inputs
from crosskd.spec.coco.fields import CocoFault, Faults
from crosskd.spec.coco.instances import CROWD, Category, Instances, read_instances
from crosskd.spec.coco.survey import Remark, Survey, Use, survey

LISTED = 20  # names that a message spells out; the rest is counted


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
    categories: list[str]  # all that the file has, by ascending id
    classes: list[str]  # in label order
    category_ids: list[int]  # [K] their ids in the file; of several categories with one name the first
    image_ids: NDArray[np.int64]  # [N]
    names: Sequence[str]  # [N] file names, relative to the image folder
    sizes: NDArray[np.int64]  # [N, 2] height, width
    starts: NDArray[np.int64]  # [N + 1]
    boxes: NDArray[np.float64]  # [M, 4] x1 y1 x2 y2, original pixels, clipped to the image
    labels: NDArray[np.int64]  # [M]
    areas: NDArray[np.float64]  # [M] of the segmentation where the file says so, else of the box
    crowd: NDArray[np.bool_]  # [M] trains nothing; detections inside count neither as right nor as wrong
    ignore: NDArray[np.bool_]  # [M] trains nothing; a detection of it counts neither as right nor as wrong
    trains: NDArray[np.bool_]  # [M] neither crowd nor ignored nor too narrow
    used: NDArray[np.int64]  # [K] the images that are read, out of 0..N-1, ascending
    left_out: int  # boxes of which nothing lies in their image, or that have no size
    remarks: list[Remark]  # what was dropped, clipped or left out
    as_is: BoxesAsTheyStand | None = (
        None  # the same boxes as the file has them, and those left out; None: not asked for
    )

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """Where image `index` has its boxes."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))


def read_annotations(
    path: Path | str, classes: Sequence[str] | None = None, *, as_is: bool = False, use: Use | None = None
) -> Annotations:
    """Read a COCO instances file.

    `classes` gives the label order, and leaves out boxes of other categories; the default is every category by
    ascending id. Boxes are clipped to their image; those with nothing left are dropped and counted. `as_is` keeps them
    besides as they stand in the file. `use` says all this and more in one; by default all images are used, as a
    validation uses them.

    Raises:
        DataError: the file cannot be read, is no JSON, breaks the format (all faults at once, the first 20 spelt out),
            or cannot be used so.
    """
    path = Path(path)
    found = _read(path)
    use = use or Use("val", classes, as_is=as_is)
    if use.classes is not None:
        _require_classes(use.classes, found.categories, path)
    taken = survey(found, use)
    if taken.problem:
        raise DataError(taken.problem, where=str(path), remedy=taken.remedy)
    return Annotations(
        path=path,
        categories=[category.name for category in found.categories.values()],
        classes=taken.classes,
        category_ids=_category_ids(found.categories, taken.classes),
        image_ids=np.array(list(found.positions), dtype=np.int64),
        names=PackedNames(found.names),
        sizes=np.array(found.sizes, dtype=np.int64).reshape(-1, 2),
        used=np.array(taken.images, dtype=np.int64),
        left_out=taken.left_out,
        remarks=taken.remarks,
        as_is=_as_they_stand(found, taken.classes) if use.as_is else None,
        **_arrays(taken, len(found.names)),
    )


def read_classes(path: Path | str) -> list[str]:
    """The category names of a COCO file by ascending id: the label order when a configuration gives none.

    Raises:
        DataError: the file cannot be read, or its categories are broken.
    """
    found = _read(Path(path), categories_alone=True)
    return [category.name for category in found.categories.values()]


def read_category_ids(path: Path | str, classes: Sequence[str]) -> list[int]:
    """The id of each class in a COCO file; of several categories with one name the first. Raises as `read_classes`."""
    found = _read(Path(path), categories_alone=True).categories
    _require_classes(classes, found, Path(path))
    return _category_ids(found, classes)


def _category_ids(found: Mapping[int, Category], classes: Sequence[str]) -> list[int]:
    ids = {category.name: key for key, category in reversed(list(found.items()))}
    return [ids[name] for name in classes]


def _read(path: Path, *, categories_alone: bool = False) -> Instances:
    try:
        with inputs.opened(path).open("rb") as file:
            found = read_instances(file, categories_alone=categories_alone)
    except OSError as error:
        raise DataError(
            f"cannot read the annotation file: {error.strerror}",
            where=str(path),
            remedy="Check the path and its permissions.",
        ) from None
    if found.faults.count:
        raise _broken(path, found.faults)
    return found


def _broken(path: Path, faults: Faults) -> DataError:
    count = "1 fault" if faults.count == 1 else f"{faults.count} faults"
    told = "; ".join(f"{fault['where']} {fault['detail']}".strip() for fault in faults.first)
    more = f"; and {faults.count - len(faults.first)} more" if faults.count > len(faults.first) else ""
    return DataError(f"{path.name} has {count}: {told}{more}", where=str(path), remedy=_remedy(faults.first))


def _remedy(faults: Sequence[CocoFault]) -> str:
    """Each remedy once, in the order of the faults."""
    return " ".join(dict.fromkeys(fault["remedy"] for fault in faults))


def _require_classes(classes: Sequence[str], categories: Mapping[int, Category], path: Path) -> None:
    there = [category.name for category in categories.values()]
    missing = [name for name in classes if name not in set(there)]
    if missing:
        raise DataError(
            f"{path.name} has no category {', '.join(map(repr, missing[:LISTED]))}",
            where=str(path),
            remedy=f"Its categories are: {', '.join(there[:100])}.",
        )


def _arrays(taken: Survey, images: int) -> dict[str, Any]:
    """The kept boxes, grouped by image."""
    flat = np.array(taken.flat, dtype=np.float64).reshape(-1, 5)
    whole = np.array(taken.whole, dtype=np.int64).reshape(-1, 5)
    order = np.argsort(whole[:, 0], kind="stable")
    flat, whole = flat[order], whole[order]
    return {
        "starts": np.searchsorted(whole[:, 0], np.arange(images + 1)).astype(np.int64),
        "boxes": np.ascontiguousarray(flat[:, :4]),
        "areas": flat[:, 4].copy(),
        "labels": whole[:, 1].copy(),
        "crowd": whole[:, 2].astype(bool),
        "ignore": whole[:, 3].astype(bool),
        "trains": whole[:, 4].astype(bool),
    }


def _as_they_stand(found: Instances, classes: Sequence[str]) -> BoxesAsTheyStand:
    """The boxes of `classes`, whatever of them lies in their image."""
    by_name = {name: label for label, name in enumerate(classes)}
    labels = {key: by_name.get(category.name, -1) for key, category in found.categories.items()}
    kept, values = BoxesAsTheyStand(), iter(found.boxes)
    boxes = zip(values, values, values, values, strict=True)
    rows = zip(found.ids, found.images, found.labels, found.flags, found.areas, boxes, strict=True)
    for id_, image, category, flags, area, box in rows:
        if (label := labels[category]) >= 0:
            kept.add(id_, image, label, bool(flags & CROWD), box, box[2] * box[3] if math.isnan(area) else area)
    return kept
