"""Reads both splits as a submission does, and says which classes can be learnt. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crosskd.errors import DataError
from crosskd.spec.coco.categories import listed
from crosskd.spec.coco.image_files import look
from crosskd.spec.coco.instances import Instances, read_instances
from crosskd.spec.coco.near_names import explain
from crosskd.spec.coco.survey import Split, Survey, Use, survey
from crosskd.spec.data.section import AugmentConfig
from crosskd.spec.inputs import real_path
from crosskd.spec.proposal.folder import Place, Places, images_folder
from crosskd.spec.proposal.statistics import Shapes, Statistics, shapes, statistics

FAULTS = 5  # that a message spells out
MISSING = 0.01  # share of images that may be missing: more of them speak of a wrong folder
MIN_SIDE = float(AugmentConfig.model_fields["min_side"].default)
SECONDS = 10.0  # in which names that nearly match are looked for


@dataclass(frozen=True)
class Data:
    """Two splits that can be trained on. `classes` is None where all categories are learnt, as they stand."""

    train: Place
    val: Place
    statistics: Statistics
    shapes: Shapes
    classes: list[str] | None
    missing: int  # images that are not there, of the split that lacks more
    remarks: list[str] = field(default_factory=list)

    @property
    def learnt(self) -> list[str]:
        return list(self.statistics.classes)


def read(folder: Path, places: Places) -> Data:
    """What the two splits hold. Raises: `DataError` for what no training could use; `ConfigError`, images not found."""
    assert places.val is not None
    found = {"train": read_file(places.train.annotations), "val": read_file(places.val.annotations)}
    remarks: list[str] = []
    train = with_images(folder, places.train, found["train"])
    val = with_images(folder, places.val, found["val"])
    missing = _missing(train, found["train"], remarks)
    if train != val:
        missing = max(missing, _missing(val, found["val"], remarks))
    first = _take(train, found["train"], "train", None)
    classes = _learnable(first, found["val"], remarks)
    taken = first if classes is None else _take(train, found["train"], "train", classes)
    evaluated = _take(val, found["val"], "val", classes)
    for place, survey_ in ((train, taken), (val, evaluated)):
        remarks += [f"{place.annotations.name}: {remark}" for remark in survey_.remarks]
    if train.images == val.images and (both := set(found["train"].names) & set(found["val"].names)):
        remarks.append(
            f"{len(both)} images are in training and in validation ({listed(sorted(both))}): AP says nothing of new "
            "ones. Take them out of one."
        )
    return Data(
        train,
        val,
        statistics(found["train"], taken, found["val"], evaluated),
        shapes(found["train"], taken),
        classes,
        missing,
        remarks,
    )


def read_file(path: Path) -> Instances:
    """An annotation file without faults. Raises: `DataError` that tells the first ones."""
    try:
        with path.open("rb") as file:
            found = read_instances(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", remedy="Check the file and its rights.") from None
    if not found.faults.count:
        return found
    told = [f"{fault['where']} {fault['detail']}".strip() for fault in found.faults.first[:FAULTS]]
    more = f"; and {found.faults.count - len(told)} more" if found.faults.count > len(told) else ""
    many = "1 fault" if found.faults.count == 1 else f"{found.faults.count} faults"
    raise DataError(f"{path} has {many}: {'; '.join(told)}{more}", remedy=found.faults.first[0]["remedy"])


def with_images(folder: Path, place: Place, found: Instances) -> Place:
    """The split with the folder of its images."""
    if place.images is not None:
        return place
    return Place(place.annotations, images_folder(folder, place.annotations, found.names))


def _missing(place: Place, found: Instances, remarks: list[str]) -> int:
    assert place.images is not None
    root = real_path(place.images)
    seen = look(root, found.names, (Path("/"),))
    if not seen.missing:
        return 0
    told = explain(root, seen.missing, seen.looked, (Path("/"),), seconds=SECONDS)
    if len(seen.missing) > MISSING * seen.looked:
        raise DataError(f"{place.annotations.name}: {told.detail}", remedy=f"{told.remedy} Or name another: --images.")
    remarks.append(f"{place.annotations.name}: {told.detail}. {told.remedy}")
    return len(seen.missing)


def _take(place: Place, found: Instances, split: Split, classes: Sequence[str] | None) -> Survey:
    """As a training with default knobs reads it."""
    train = split == "train"
    taken = survey(found, Use(split, classes, MIN_SIDE if train else 0.0, drop_empty=train))
    if taken.problem:
        raise DataError(f"{place.annotations.name}: {taken.problem}", remedy=taken.remedy)
    return taken


def _learnable(train: Survey, val: Instances, remarks: list[str]) -> list[str] | None:
    """The classes with a box that trains, which validation knows too; None where these are all there are."""
    boxed = Counter(label for label, trains in zip(train.whole[1::5], train.whole[4::5], strict=True) if trains)
    known = [category.name for category in val.categories.values()]
    kept = [name for label, name in enumerate(train.classes) if boxed[label] and name in known]
    if not kept:
        raise DataError(
            f"no class has boxes in training and is a category of validation: training has {listed(train.classes)}, "
            f"validation {listed(known)}",
            remedy="Use two files of one data set.",
        )
    strange = [name for label, name in enumerate(train.classes) if boxed[label] and name not in known]
    if strange:
        remarks.append(
            f"{len(strange)} classes are no categories of validation and are not learnt: {listed(strange)}. "
            "Add them to the validation file to learn them."
        )
    empty = [name for label, name in enumerate(train.classes) if not boxed[label]]
    if empty:
        remarks.append(f"{len(empty)} classes have no box that trains and are not learnt: {listed(empty)}.")
    return kept if len(kept) < len(train.classes) or set(kept) != set(known) else None
