"""Compares two imported data sets, image by image."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from crosskd.datasets.importing import REPORT
from crosskd.datasets.model import SPLITS
from crosskd.errors import DataError
from crosskd.spec.results.dataset_comparison import DatasetComparison, ImageChanges, What, compare_reports
from crosskd.spec.results.dataset_report import FIRST, DatasetReport, ImageName

Model = TypeVar("Model", bound=BaseModel)
ORDER: tuple[What, ...] = ("added", "removed", "moved", "content", "size", "boxes")


class _Image(BaseModel):
    id: int
    file_name: str
    width: int
    height: int
    sha256: str


class _Box(BaseModel):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    ignore: int = 0


class _Category(BaseModel):
    id: int
    name: str


class _Split(BaseModel):
    images: list[_Image]
    annotations: list[_Box]
    categories: list[_Category]


@dataclass(frozen=True)
class _Seen:
    """An image of a version."""

    split: str
    sha256: str
    size: tuple[int, int]
    boxes: list[tuple[object, ...]]


def compare_folders(before: Path, after: Path) -> DatasetComparison:
    """What differs between two folders that imports have written; images are the same by their names.

    Raises: `DataError` for a folder that no import has written.
    """
    reports = [_read(folder / REPORT, DatasetReport) for folder in (before, after)]
    found = compare_reports(*reports)
    found.images = [] if found.same else _image_changes(*(_images(folder) for folder in (before, after)))
    return found


def _image_changes(before: dict[str, _Seen], after: dict[str, _Seen]) -> list[ImageChanges]:
    changes: defaultdict[What, list[ImageName]] = defaultdict(list)
    for name, old in before.items():
        if name not in after:
            changes["removed"].append(ImageName(split=old.split, file_name=name))
    for name, new in after.items():
        for what in _differences(before.get(name), new):
            changes[what].append(ImageName(split=new.split, file_name=name))
    return [
        ImageChanges(what=what, count=len(changes[what]), first=changes[what][:FIRST])
        for what in ORDER
        if what in changes
    ]


def _differences(old: _Seen | None, new: _Seen) -> list[What]:
    if old is None:
        return ["added"]
    found: list[tuple[What, bool]] = [
        ("moved", old.split != new.split),
        ("content", old.sha256 != new.sha256),
        ("size", old.size != new.size),
        ("boxes", old.boxes != new.boxes),
    ]
    return [what for what, differs in found if differs]


def _images(folder: Path) -> dict[str, _Seen]:
    """By name; an image that two splits have stands in both, as `split:name` but for the first."""
    found: dict[str, _Seen] = {}
    for split in SPLITS:
        path = folder / f"{split}.json"
        if not path.is_file():
            continue
        content = _read(path, _Split)
        names = {category.id: category.name for category in content.categories}
        boxes: defaultdict[int, list[tuple[object, ...]]] = defaultdict(list)
        for box in content.annotations:
            boxes[box.image_id].append((names.get(box.category_id), *box.bbox, box.iscrowd, box.ignore))
        for image in content.images:
            key = image.file_name if image.file_name not in found else f"{split}:{image.file_name}"
            size = (image.width, image.height)
            found[key] = _Seen(split, image.sha256, size, sorted(boxes[image.id], key=repr))
    return found


def _read(path: Path, model: type[Model]) -> Model:
    remedy = "Name a folder that `crosskd import` has written."
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", remedy=remedy) from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise DataError(f"{path} is not what an import writes: {place} {fault['msg']}", remedy=remedy) from None
