"""Divides the images of a source into training and validation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath

from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.model import TEST, TRAIN, VAL, Source, SourceImage
from crosskd.errors import ConfigError, DataError
from crosskd.spec.data.draw import drawn
from crosskd.spec.data.import_config import BY_FOLDER, SplitConfig


def divide(source: Source, split: SplitConfig | None, faults: DatasetFaults) -> None:
    """Training and validation as `split` says, or as the source has them; a test split stays apart.

    Raises: `ConfigError` where the source has no validation and `split` is not given; `DataError` where a split has no
    image.
    """
    if split is not None:
        _divide(source, split, faults)
    elif VAL not in source.splits or TRAIN not in source.splits:
        there = " and ".join(name for name, _ in source.ordered()) or "no split"
        raise ConfigError(
            f"the data set has {there} alone, and a training needs training and validation images",
            where="/split",
            remedy='Let images be drawn: split: {"validation": 0.2} (crosskd import: --validation 0.2).',
        )
    for name, images in source.ordered():
        images.sort(key=lambda image: image.name)
        if images:
            continue
        if name != TEST:
            why = f": {told}" if (told := faults.told()) else ""
            raise DataError(
                f"the split {name} has no image that can be used{why}", remedy="Add images, or divide anew."
            )
        faults.add("empty_split", name, "", "it has no image")
        del source.splits[name]


def _divide(source: Source, split: SplitConfig, faults: DatasetFaults) -> None:
    merged: dict[str, SourceImage] = {}
    for name, images in source.ordered():
        if name == TEST:
            continue
        for image in images:
            if image.name in merged:
                faults.add("name_twice", image.file, image.named(), f"{image.name} has another entry before it")
            else:
                merged[image.name] = image
    groups = _groups(sorted(merged.values(), key=lambda image: image.name), split, faults)
    sizes = Counter(groups.values())
    if len(sizes) < 2:
        raise DataError(
            f"{len(merged)} images in {len(sizes)} group cannot be divided{faults.because()}",
            remedy="Add images, or change group_by.",
        )
    chosen = drawn(sizes, split.validation, split.seed)
    source.splits[TRAIN] = [image for image in merged.values() if groups[image.name] not in chosen]
    source.splits[VAL] = [image for image in merged.values() if groups[image.name] in chosen]


def _groups(images: list[SourceImage], split: SplitConfig, faults: DatasetFaults) -> dict[str, str]:
    """The group of each image: by its key, and one group for all whose files are the same."""
    key = _key(split.group_by)
    parents: dict[str, str] = {}

    def find(group: str) -> str:
        while (above := parents.setdefault(group, group)) != group:
            parents[group] = group = parents.setdefault(above, above)
        return group

    own: dict[str, str] = {}
    first: dict[str, str] = {}  # by the file's content
    for image in images:
        group = key(image.name)
        if group is None:
            faults.add("no_group", image.name, image.named(), "group_by does not match its name")
        own[image.name] = f"image {image.name}" if group is None else f"group {group}"
        one, other = find(own[image.name]), find(first.setdefault(image.sha256, own[image.name]))
        parents[max(one, other)] = min(one, other)
    return {name: find(group) for name, group in own.items()}


def _key(group_by: str | None) -> Callable[[str], str | None]:
    if group_by is None:
        return lambda name: f"image {name}"
    if group_by == BY_FOLDER:
        return lambda name: PurePosixPath(name).parent.as_posix()
    pattern = re.compile(group_by)

    def of_name(name: str) -> str | None:
        found = pattern.search(name)
        if found is None:
            return None
        return (found.group(1) if pattern.groups else found.group()) or None

    return of_name
