"""Two versions of a data set, side by side. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import BaseModel, Field

from crosskd.spec.results.dataset_report import DatasetReport, ImageName

What = Literal["added", "removed", "moved", "content", "size", "boxes"]


class Change(BaseModel):
    """A number that differs; 0 where a version lacks what is counted."""

    name: str = Field(description="What is counted.")
    before: int = Field(ge=0, description="In the first version, from 0.")
    after: int = Field(ge=0, description="In the second version, from 0.")


class ImageChanges(BaseModel):
    """Images that differ in one way."""

    what: What = Field(
        description="added, removed; moved: into another split; content: other bytes of the file; size; boxes: other "
        "ones, or of other classes."
    )
    count: int = Field(ge=0, description="How many there are, from 0.")
    first: list[ImageName] = Field(
        description="The first 100 of them, with their split in the second version; of removed ones in the first."
    )


class DatasetComparison(BaseModel):
    """What differs between two versions; lists have differences alone."""

    before: str = Field(description="Digest of the first version.")
    after: str = Field(description="Digest of the second version.")
    same: bool = Field(description="Whether both hold the same.")
    classes_added: list[str] = Field(description="Classes that the second version alone has.")
    classes_removed: list[str] = Field(description="Classes that the first version alone has.")
    splits: list[Change] = Field(description="Images and boxes of each split, as `train images`.")
    classes: list[Change] = Field(description="Boxes of each class that both have, in all splits.")
    faults: list[Change] = Field(description="Faults by kind.")
    duplicates: list[Change] = Field(description="Copies, near copies and leaks.")
    images: list[ImageChanges] | None = Field(
        default=None, description="Images that differ, by their names; null: reports alone were compared."
    )


def compare_reports(before: DatasetReport, after: DatasetReport) -> DatasetComparison:
    """What the reports of two imports tell apart."""
    classes = [{entry.name: sum(entry.boxes.values()) for entry in report.classes} for report in (before, after)]
    first, second = classes
    return DatasetComparison(
        before=before.digest,
        after=after.digest,
        same=before.digest == after.digest,
        classes_added=[name for name in second if name not in first],
        classes_removed=[name for name in first if name not in second],
        splits=list(_changes(_splits(before), _splits(after))),
        classes=[change for change in _changes(first, second) if change.name in first and change.name in second],
        faults=list(_changes(_faults(before), _faults(after))),
        duplicates=list(_changes(_duplicates(before), _duplicates(after))),
    )


def _changes(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[Change]:
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name, 0), after.get(name, 0)
        if one != other:
            yield Change(name=name, before=one, after=other)


def _splits(report: DatasetReport) -> dict[str, int]:
    return {
        f"{split.name} {what}": count
        for split in report.splits
        for what, count in (("images", split.images), ("boxes", split.boxes))
    }


def _faults(report: DatasetReport) -> dict[str, int]:
    return {fault.kind: fault.count for fault in report.faults}


def _duplicates(report: DatasetReport) -> dict[str, int]:
    """What was not looked for is left out."""
    found = report.duplicates
    counts = {"exact": found.exact, "near": found.near, "leaks": found.leaks, "near leaks": found.near_leaks}
    return {name: count for name, count in counts.items() if count is not None}
