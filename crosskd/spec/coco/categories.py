"""Whether the categories of two COCO files, or of a file and a list of classes, go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LISTED = 10  # names that a fault spells out


class ClassFault(NamedTuple):
    """What is wrong, and what to do."""

    detail: str
    remedy: str


def other_categories(train: Sequence[str], val: Sequence[str]) -> ClassFault | None:
    """A fault where training and validation differ, and no list of classes says which ones are meant."""
    differing = sorted(set(train) ^ set(val))
    if not differing:
        return None
    return ClassFault(
        f"training and validation have other categories: {listed(differing)} in one of them alone",
        "Give `data.classes` the names that both have, or mend a file.",
    )


def listed(names: Sequence[str]) -> str:
    """The first of the names, quoted, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more
