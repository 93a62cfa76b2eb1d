"""Tells the formats of a data set by the names of its files. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from crosskd.errors import ConfigError
from crosskd.spec.data.image_list import SUFFIXES
from crosskd.spec.data.import_config import Format
from crosskd.spec.proposal.folder import find

LABELS = "labels"
LISTED = 10_000  # entries of a folder that are looked at
FOLDERS = 200  # that are looked into
YAMLS = (".yaml", ".yml")
YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")  # what describes a data set of YOLO


def recognise(source: Path) -> list[Format]:
    """The formats that a folder or a file is likely to be in; none: it is in no known one."""
    if source.is_file():
        suffix = source.suffix.lower()
        return ["coco"] if suffix == ".json" else ["yolo"] if suffix in YAMLS else []
    found: list[Format] = []
    if _is_coco(source):
        found.append("coco")
    if _is_yolo(source):
        found.append("yolo")
    if _is_voc(source):
        found.append("voc")
    return found


def _is_coco(folder: Path) -> bool:
    try:
        find(folder)
    except ConfigError:
        return False
    return True


def _is_yolo(folder: Path) -> bool:
    if any((folder / name).is_file() for name in YAML_NAMES):
        return True
    return any(_has_labels(place) for place in _looked_into(folder))


def _has_labels(folder: Path) -> bool:
    """Whether it holds text files that are labels by the folder's name, or by an image of the same name."""
    names = _names(folder)
    texts = {Path(name).stem for name in names if name.lower().endswith(".txt")}
    if LABELS in folder.parts[-2:]:
        return bool(texts)
    return any(Path(name).stem in texts for name in names if Path(name).suffix.lower() in SUFFIXES)


def _is_voc(folder: Path) -> bool:
    return any(name.lower().endswith(".xml") for place in _looked_into(folder) for name in _names(place))


def _looked_into(folder: Path) -> Iterator[Path]:
    """It, the folders in it, and those in these: labels/train, train/labels, VOC2007/Annotations."""
    yield folder
    yield from islice(_below(folder), FOLDERS)


def _below(folder: Path) -> Iterator[Path]:
    for child in _folders(folder):
        yield child
        yield from _folders(child)


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in islice(entries, LISTED) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, LISTED)]
    except OSError:
        return []
