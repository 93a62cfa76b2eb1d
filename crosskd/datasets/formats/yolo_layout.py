"""Where a data set in YOLO's form has its images, labels and names of classes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.formats.listing import files_below
from crosskd.datasets.formats.opening import Sources, is_there
from crosskd.datasets.model import TEST, TRAIN, VAL
from crosskd.errors import ConfigError, DataError
from crosskd.spec.coco.fields import MAX_NAME, encodes
from crosskd.spec.data.image_list import LARGEST_LIST, SUFFIXES
from crosskd.spec.data.recognise import LABELS, YAML_NAMES, YAMLS
from crosskd.spec.section import MAX_CLASSES

MOST_YAML = 1 << 20  # bytes of data.yaml
SPELT = {TRAIN: ("train",), VAL: ("val", "valid", "validation"), TEST: ("test",)}
CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "classes.names")
IMAGES = "images"
OUTSIDE = "Copy it into the data set's folder, or name the folder that it lies in as a data root (--data-root)."
_YAML = "Write `names` as a list, or as numbers with names, and `train` and `val` as folders."


@dataclass
class Layout:
    """`names` by class number, ascending; None: nothing names the classes. `keypoints`: numbers of a line besides."""

    root: Path
    splits: dict[str, list[Path]]
    names: dict[int, str] | None
    keypoints: int = 0


def find_yaml(folder: Path) -> Path | None:
    """The file that describes the data set in a folder."""
    named = next((folder / name for name in YAML_NAMES if (folder / name).is_file()), None)
    if named is not None:
        return named
    try:
        others = [path for path in sorted(folder.iterdir()) if path.suffix in YAMLS and path.is_file()]
    except OSError as error:
        raise ConfigError(f"{str(folder)!r} cannot be listed: {error.strerror}", remedy="Check its rights.") from None
    return others[0] if len(others) == 1 else None


def label_places(image: Path) -> Iterator[Path]:
    """Where the labels of an image may lie: `images` in its path, the last one, replaced by `labels`; or beside it."""
    parts = list(image.with_suffix(".txt").parts)
    places = [at for at, part in enumerate(parts[:-1]) if part == IMAGES]
    if places:
        yield Path(*parts[: places[-1]], LABELS, *parts[places[-1] + 1 :])
    yield Path(*parts)
    yield Path(*parts[:-2], LABELS, parts[-1])


def read_layout(sources: Sources, faults: DatasetFaults) -> Layout:
    """Raises: `ConfigError` where nothing says which images there are; `DataError` for a data.yaml that is none."""
    file = sources.file or find_yaml(sources.folder)
    layout = _without_yaml(sources) if file is None else _of_yaml(sources, file, faults)
    if not any(layout.splits.values()):
        raise DataError(
            f"no image is found in {str(sources.folder)!r}", remedy="Check the folders that data.yaml names."
        )
    for name in [name for name, paths in layout.splits.items() if not paths]:
        faults.add("empty_split", name, "", "it names no image")
        del layout.splits[name]
    return layout


# --- with data.yaml --------------------------------------------------------------------------------------------------


def _of_yaml(sources: Sources, file: Path, faults: DatasetFaults) -> Layout:
    values = _load(sources, file)
    names = _names(values, file)
    bases = _bases(values, file)
    splits: dict[str, list[Path]] = {}
    for split, keys in SPELT.items():
        key = next((key for key in keys if values.get(key)), None)
        if key is None:
            continue
        entries = values[key] if isinstance(values[key], list) else [values[key]]
        found: dict[Path, None] = {}
        for entry in entries:
            if not isinstance(entry, str) or not entry or "\0" in entry:
                raise DataError(f"{file.name}: `{key}` is no path", remedy=_YAML)
            found.update(dict.fromkeys(_entry(sources, bases, entry, key, split, faults)))
        splits[split] = list(found)
    if not splits:
        raise DataError(f"{file.name} names no split", remedy=_YAML)
    return Layout(_root(sources, splits), splits, names, _keypoints(values))


def _load(sources: Sources, file: Path) -> dict[str, Any]:
    content = sources.read(file, MOST_YAML)
    try:
        values = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark is not None else ""
        raise DataError(f"{file.name} is no YAML{place}", remedy=_YAML) from None
    if not isinstance(values, dict):
        raise DataError(f"{file.name} is no mapping", remedy=_YAML)
    return values


def _names(values: dict[str, Any], file: Path) -> dict[int, str] | None:
    """By class number. Raises: `DataError` for names that are none, or stand there twice."""
    given, number = values.get("names"), values.get("nc")
    if given is None:
        if type(number) is int and 0 < number <= MAX_CLASSES:
            return {at: f"class_{at}" for at in range(number)}
        return None
    listed = list(enumerate(given)) if isinstance(given, list) else []
    pairs = list(given.items()) if isinstance(given, dict) else listed
    if not pairs or len(pairs) > MAX_CLASSES:
        raise DataError(f"{file.name}: `names` has {len(pairs)} classes, 1 to {MAX_CLASSES} can be", remedy=_YAML)
    names: dict[int, str] = {}
    for key, name in pairs:
        at = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key
        text = str(name) if isinstance(name, str | int | float) else ""  # `names: [0, yes]` are numbers and booleans
        if type(at) is not int or not 0 <= at < MAX_CLASSES:
            raise DataError(f"{file.name}: a class of `names` has a number that is none", remedy=_YAML)
        if not text or len(text) > MAX_NAME or "\0" in text or not encodes(text):
            raise DataError(f"{file.name}: class {at} has no name of 1 to {MAX_NAME} characters", remedy=_YAML)
        names[at] = text
    if type(number) is int and number != len(names):
        raise DataError(f"{file.name}: `nc` is {number}, and `names` has {len(names)}", remedy="Correct one of them.")
    return _unlike(dict(sorted(names.items())), file)


def _unlike(names: dict[int, str], file: Path) -> dict[int, str]:
    first: dict[str, int] = {}
    for at, name in names.items():
        if name in first:
            raise DataError(
                f"{file.name}: classes {first[name]} and {at} are both named {name!r}", remedy="Give them other names."
            )
        first[name] = at
    return names


def _keypoints(values: dict[str, Any]) -> int:
    shape = values.get("kpt_shape")
    sound = isinstance(shape, list) and all(type(side) is int and 0 < side < 1000 for side in shape)
    return math.prod(shape) if sound and shape is not None else 0


def _bases(values: dict[str, Any], file: Path) -> list[Path]:
    """The folders that entries may be relative to: what `path` says is often of another machine."""
    path = values.get("path")
    named = [file.parent / path] if isinstance(path, str) and path and "\0" not in path else []
    return [*named, file.parent]


def _entry(
    sources: Sources, bases: list[Path], entry: str, key: str, split: str, faults: DatasetFaults
) -> Iterator[Path]:
    """The images of one folder, or of one list."""
    outside = False
    stripped = entry
    while stripped.startswith("../"):  # as Roboflow writes it, relative to nothing that is there
        stripped = stripped[3:]
    for candidate in dict.fromkeys(_flat(base / text) for text in (entry, stripped) for base in bases):
        if not is_there(candidate):
            continue
        if not sources.is_inside(candidate):
            outside = True
        elif candidate.is_dir():
            images = list(files_below(sources, candidate, SUFFIXES))
            # `train: train` of an export whose images lie in train/images.
            yield from map(_flat, images)
            return
        else:
            yield from _listed(sources, candidate, bases, faults)
            return
    if split == TEST:  # often named and not there
        return
    why = "leads out of the data" if outside else "is not there"
    remedy = OUTSIDE if outside else "Correct the path in data.yaml."
    raise ConfigError(f"`{key}` of data.yaml, {entry!r:.200}, {why}", remedy=remedy)


def _listed(sources: Sources, file: Path, bases: list[Path], faults: DatasetFaults) -> Iterator[Path]:
    """The images that a text file names, one a line: relative to it, or to the data set."""
    try:
        lines = sources.read(file, LARGEST_LIST).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{sources.name(file)} is not UTF-8", remedy="Save the file as UTF-8.") from None
    for at, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if "\0" in text:
            faults.add("bad_entry", sources.name(file), f"line {at}", "it holds a NUL character")
            continue
        places = list(dict.fromkeys(_flat(base / text) for base in (file.parent, *bases)))
        there = next((place for place in places if is_there(place, file=True)), places[0])
        if any(there.is_relative_to(folder) for folder in sources.allowed()):
            yield there
        else:
            faults.add("outside_source", sources.name(file), f"line {at}", text)


def _root(sources: Sources, splits: dict[str, list[Path]]) -> Path:
    """The folder that all images are relative to: the data set's own wherever that can be."""
    folders = {path.parent for paths in splits.values() for path in paths}
    if all(folder.is_relative_to(sources.folder) for folder in folders):
        return sources.folder
    root = Path(os.path.commonpath(folders))
    if not any(root.is_relative_to(folder) for folder in sources.allowed()):
        raise ConfigError("the images lie in several data roots", remedy="Copy them into one folder.")
    return root


def _flat(path: Path) -> Path:
    """Without `.` and `..`, by the words of the path alone."""
    return Path(os.path.normpath(path))


# --- without data.yaml -----------------------------------------------------------------------------------------------


def _without_yaml(sources: Sources) -> Layout:
    folder, splits = sources.folder, dict[str, list[Path]]()
    for split, spelt in SPELT.items():
        for name in spelt:
            for place in (folder / IMAGES / name, folder / name / IMAGES, folder / name):
                if split not in splits and place.is_dir():
                    splits[split] = [_flat(path) for path in files_below(sources, place, SUFFIXES)]
    if not splits:
        whole = folder / IMAGES if (folder / IMAGES).is_dir() else folder
        splits[TRAIN] = [_flat(path) for path in files_below(sources, whole, SUFFIXES)]
    return Layout(folder, splits, _class_file(sources))


def _class_file(sources: Sources) -> dict[int, str] | None:
    file = next((sources.folder / name for name in CLASS_FILES if (sources.folder / name).is_file()), None)
    if file is None:
        return None
    try:
        lines = sources.read(file, MOST_YAML).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{sources.name(file)} is not UTF-8", remedy="Save the file as UTF-8.") from None
    return _names({"names": [line.strip() for line in lines if line.strip()]}, file)
