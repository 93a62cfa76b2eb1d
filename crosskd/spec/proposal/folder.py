"""Finds the annotation files and the images of a data folder, and divides one that has no validation split."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crosskd.errors import ConfigError, DataError
from crosskd.spec.data.draw import drawn
from crosskd.spec.data.layouts import LAYOUTS, data_section

# Annotations that are not divided, as exporters leave them: CVAT, Label Studio, FiftyOne, Roboflow, by hand.
UNDIVIDED = (
    "annotations/instances_default.json",
    "annotations/instances.json",
    "annotations.json",
    "instances.json",
    "result.json",
    "labels.json",
    "_annotations.coco.json",
    "annotations/instances_train.json",
    "train.json",
)
IMAGES = ("images", "data", "train", ".", "..")  # where images may lie, beside the annotations or in the data folder
BY_NAME = "Or name the parts: --train FILE --val FILE --images FOLDER."


@dataclass(frozen=True)
class Place:
    """A split: its annotation file, and the folder of its images; None: that is still to be found."""

    annotations: Path
    images: Path | None


@dataclass(frozen=True)
class Places:
    """Both splits; `val` is None where the folder has none."""

    train: Place
    val: Place | None


def find(folder: Path, *, train: Path | None = None, val: Path | None = None, images: Path | None = None) -> Places:
    """The splits of a data folder: as they are named, else by a usual layout; all paths absolute, and none with `..`.

    Raises: `ConfigError` that says what is missing, or cannot be looked at.
    """
    try:
        return _find(real(folder), train, val, images)
    except OSError as error:
        raise ConfigError(
            f"{error.filename!r:.300} cannot be looked at: {error.strerror}",
            remedy="Check the path, and the rights of its folders.",
        ) from None


def real(path: Path) -> Path:
    """Where `path` leads, absolute; `~` of nobody and links in a circle stay as they are, and lead nowhere."""
    return Path(os.path.realpath(expanded(path)))


def expanded(path: Path) -> Path:
    """With the home that `~` stands for; that of nobody stays as it is, and is not there."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def require_text(path: Path) -> None:
    """Raise `ConfigError` for a name that is no UTF-8: it cannot stand in a specification."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"the path {str(path)!r} is not UTF-8", remedy="Rename the file or folder.") from None


def _find(folder: Path, train: Path | None, val: Path | None, images: Path | None) -> Places:
    require_text(folder)
    if folder.is_file():
        raise ConfigError(f"{str(folder)!r} is a file", remedy="Name the folder that it lies in, and it as --train.")
    if not folder.is_dir():
        raise ConfigError(f"there is no data folder {str(folder)!r}", remedy="Name the folder with the data set.")
    if train is None and val is not None:
        raise ConfigError("--val names a validation split without a training split", remedy="Give --train, too.")
    places = _by_layout(folder) if train is None else _by_name(folder, train, val)
    if images is None:
        return places
    named = _there(folder, images, folders=True)
    return Places(replace(places.train, images=named), places.val and replace(places.val, images=named))


def images_folder(folder: Path, annotations: Path, names: Sequence[str]) -> Path:
    """The folder that the first of the images' `names` is found in. Raises: `ConfigError`."""
    for base in dict.fromkeys((annotations.parent, real(folder))):
        for name in IMAGES:
            candidate = real(base / name)
            if names and _is_there(candidate / names[0]):
                return candidate
    raise ConfigError(
        f"{names[0] if names else 'an image'!r:.200}, the first image of {annotations.name}, lies in none of the usual "
        f"folders ({', '.join(IMAGES[:3])}, or beside it)",
        remedy="Name the folder that `file_name` is relative to: --images FOLDER.",
    )


def divide(place: Place, share: float, seed: int) -> tuple[str, str]:
    """The texts of two annotation files: the images to train on, and `share` of them, drawn by `seed`, to validate.

    Boxes go with their image; all else stands in both. The file must be without faults. Raises: `DataError`.
    """
    content: dict[str, Any] = json.loads(place.annotations.read_text(encoding="utf-8-sig"))
    ids = [int(image["id"]) for image in content["images"]]
    if len(ids) < 2:
        raise DataError(
            f"{place.annotations.name} has one image, which cannot be divided", remedy="Add images, or name --val."
        )
    chosen = drawn(dict.fromkeys(ids, 1), share, seed)

    def part(validates: bool) -> str:
        images = [image for image in content["images"] if (image["id"] in chosen) is validates]
        boxes = [box for box in content["annotations"] if (box["image_id"] in chosen) is validates]
        return json.dumps({**content, "images": images, "annotations": boxes}) + "\n"

    return part(validates=False), part(validates=True)


def _by_layout(folder: Path) -> Places:
    try:
        section = data_section(folder)
    except ConfigError as error:
        if (divided := _without_images(folder)) is not None:
            return divided
        alone = _undivided(folder)
        if alone is None:
            raise ConfigError(error.message, remedy=f"{error.remedy.partition(' Or name')[0]} {BY_NAME}") from None
        return Places(alone, None)
    both = (Place(Path(section[split]["annotations"]), Path(section[split]["images"])) for split in ("train", "val"))
    return Places(*both)


def _without_images(folder: Path) -> Places | None:
    """Both annotation files of a layout whose images lie elsewhere."""
    for layout in LAYOUTS:
        splits = [
            Place(folder / annotations, folder / images if (folder / images).is_dir() else None)
            for annotations, images in (layout.train, layout.val)
        ]
        if all(split.annotations.is_file() for split in splits):
            return Places(*splits)
    return None


def _undivided(folder: Path) -> Place | None:
    for layout in LAYOUTS:
        annotations, images = layout.train
        if (folder / annotations).is_file() and (folder / images).is_dir():
            return Place(folder / annotations, folder / images)
    return next((Place(folder / name, None) for name in UNDIVIDED if (folder / name).is_file()), None)


def _by_name(folder: Path, train: Path, val: Path | None) -> Places:
    return Places(Place(_there(folder, train), None), None if val is None else Place(_there(folder, val), None))


def _there(folder: Path, path: Path, *, folders: bool = False) -> Path:
    """`path` as it is named, or in the data folder."""
    what = "folder" if folders else "file"
    for candidate in (real(path), real(folder / path)):
        require_text(candidate)
        if candidate.is_dir() if folders else candidate.is_file():
            return candidate
    raise ConfigError(
        f"there is no {what} {str(path)!r}, neither here nor in {str(folder)!r}", remedy="Check its name."
    )


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that no file could have, or a folder that may not be looked into
        return False
