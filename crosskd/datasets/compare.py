"""Compares two imported data sets, image by image."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from crosskd.datasets.written import read_report, read_splits
from crosskd.spec.results.dataset_comparison import DatasetComparison, ImageChanges, What, compare_reports
from crosskd.spec.results.dataset_report import FIRST, ImageName

ORDER: tuple[What, ...] = ("added", "removed", "moved", "content", "size", "boxes")


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
    reports = [read_report(folder) for folder in (before, after)]
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
    for split, content in read_splits(folder):
        names = {category.id: category.name for category in content.categories}
        boxes: defaultdict[int, list[tuple[object, ...]]] = defaultdict(list)
        for box in content.annotations:
            boxes[box.image_id].append((names.get(box.category_id), *box.bbox, box.iscrowd, box.ignore))
        for image in content.images:
            key = image.file_name if image.file_name not in found else f"{split}:{image.file_name}"
            size = (image.width, image.height)
            found[key] = _Seen(split, image.sha256, size, sorted(boxes[image.id], key=repr))
    return found
