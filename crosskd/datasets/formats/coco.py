"""Reads a COCO data set: a file, or a folder with a training and a validation file.

Files are read by the rules of the training (crosskd/spec/coco), except that an entry at fault is left out and counted,
where a training refuses the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.formats.listing import unlisted_images
from crosskd.datasets.formats.opening import Sources
from crosskd.datasets.model import TEST, TRAIN, VAL, Box, Source, SourceImage
from crosskd.errors import ConfigError, DataError
from crosskd.spec.coco.box_form import find_wrong_form
from crosskd.spec.coco.fields import REMEDY, FaultKind, Faults
from crosskd.spec.coco.image_files import sample
from crosskd.spec.coco.instances import CROWD, IGNORE, Instances, read_instances
from crosskd.spec.inputs import real_path
from crosskd.spec.proposal.folder import Place, find, images_folder

TESTS = ("test/_annotations.coco.json", "annotations/instances_test.json", "annotations/test.json", "test.json")
_KINDS: dict[FaultKind, str] = {
    "entry": "bad_entry",
    "box": "not_a_number",
    "size": "no_size",
    "duplicate_id": "duplicate_id",
    "same_name": "same_name",
}


class _Counted(Faults):
    """Hands the faults of a file on by kind. References and names are judged where the boxes are put together."""

    def __init__(self, file: str, into: DatasetFaults) -> None:
        super().__init__()
        self._file, self._into = file, into

    def add(self, where: str, detail: str, remedy: str = REMEDY, *, kind: FaultKind = "entry") -> None:
        super().add(where, detail, remedy)
        if kind == "file":
            raise DataError(f"{self._file}: {where} {detail}".replace("  ", " "), remedy=remedy)
        if kind in _KINDS:
            self._into.add(_KINDS[kind], self._file, where, detail)


@dataclass
class _Read:
    """A file, its name, and the folder of its images."""

    file: str
    found: Instances
    images: Path


def read_coco(sources: Sources, images: Path | None, faults: DatasetFaults) -> Source:
    """Raises: `ConfigError`, `DataError` where there is no such data set, or a file is no COCO file at all."""
    if images is not None:
        images = sources.allow(images)
    files = {split: _read(sources, place, images, faults) for split, place in _places(sources).items()}
    folders = [file.images for file in files.values()]
    root = Path(os.path.commonpath(folders))
    classes, ids = _classes(file.found for file in files.values())
    splits = {split: _images(file, root, classes, faults) for split, file in files.items()}
    unlisted_images(sources, root, folders, [image.name for split in splits.values() for image in split], faults)
    return Source("coco", root, classes, splits, sources.allowed(), ids)


def _places(sources: Sources) -> dict[str, Place]:
    if sources.file is not None:
        return {TRAIN: Place(sources.file, None)}
    places = find(sources.folder)
    found = {TRAIN: places.train, **({VAL: places.val} if places.val is not None else {})}
    for name in TESTS:
        if (sources.folder / name).is_file():
            found[TEST] = Place(sources.folder / name, None)
            break
    return found


def _read(sources: Sources, place: Place, images: Path | None, faults: DatasetFaults) -> _Read:
    name = sources.name(place.annotations)
    with sources.open(place.annotations) as file:
        found = read_instances(file, faults=_Counted(name, faults))
    if (form := find_wrong_form(found)) is not None:
        if form.certain:
            raise DataError(f"{name}: {form.detail}", remedy=form.remedy)
        faults.add("wrong_form", name, "", f"{form.detail}. {form.remedy}", count=form.count)
    return _Read(name, found, real_path(images or place.images or _find_images(sources, place, found.names)))


def _find_images(sources: Sources, place: Place, names: Sequence[str]) -> Path:
    """The folder in which one of the images is found: the first may be the one that is missing."""
    fault = f"{place.annotations.name} names no image"
    for name in reversed(sample(names)):
        try:
            folder = images_folder(sources.folder, place.annotations, [name])
        except ConfigError as error:
            fault = error.message
            continue
        if sources.is_inside(folder):
            return folder
        fault = f"the images of {place.annotations.name} lie outside of {str(sources.folder)!r}"
    raise ConfigError(fault, remedy="Name the folder that `file_name` is relative to as `images`.")


def _classes(files: Iterable[Instances]) -> tuple[list[str], list[int]]:
    """All categories, the first file's by ascending id, then what the others have besides; ids that are all unlike."""
    names: dict[str, int] = {}
    for found in files:
        for category in found.categories.values():
            if category.name not in names:
                taken = set(names.values())
                names[category.name] = category.id if category.id not in taken else max(taken) + 1
    return list(names), list(names.values())


def _images(read: _Read, root: Path, classes: Sequence[str], faults: DatasetFaults) -> list[SourceImage]:
    found, below = read.found, read.images.relative_to(root)
    ids = list(found.positions)
    every: list[SourceImage | None] = []
    for place, name in enumerate(found.names):
        if not name:  # told as a fault of the file
            every.append(None)
            continue
        height, width = (0, 0) if place in found.unsized else found.sizes[2 * place : 2 * place + 2]
        every.append(SourceImage((below / name).as_posix(), read.file, [], width, height, ids[place]))
    _boxes(read, every, classes, faults)
    return [image for image in every if image is not None]


def _boxes(read: _Read, every: Sequence[SourceImage | None], classes: Sequence[str], faults: DatasetFaults) -> None:
    found = read.found
    by_name = {name: label for label, name in enumerate(classes)}
    labels = {key: by_name[category.name] for key, category in found.categories.items()}
    values = iter(found.boxes)
    boxes = zip(values, values, values, values, strict=True)
    rows = zip(found.ids, found.images, found.labels, found.flags, found.areas, boxes, strict=True)
    for id_, image, category, flags, area, (x, y, w, h) in rows:
        place = found.positions.get(image)
        if place is None:
            faults.add("label_without_image", read.file, str(id_), f"there is no image with id {image}")
        elif category not in labels:
            faults.add("unknown_class", read.file, str(id_), f"its category {category} is none that boxes can be of")
        elif (owner := every[place]) is not None:
            size = None if math.isnan(area) else area
            owner.boxes.append(
                Box(labels[category], x, y, w, h, str(id_), size, bool(flags & CROWD), bool(flags & IGNORE))
            )
