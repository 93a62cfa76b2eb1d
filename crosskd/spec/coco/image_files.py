"""Looks for the images that a COCO file names: which are missing, which are links that lead out of the data."""

from __future__ import annotations

import errno
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crosskd.spec.inputs import LeadsOutside, WrongKind, open_within

SAMPLE = 50  # names that are looked for before a job is stored
LONGEST = 1000  # characters of a name in a sample
LISTED = 5  # names that a message spells out
LISTING = 200  # names of one folder from which on it is listed once, rather than asked for each


def sample(names: Sequence[str]) -> list[str]:
    """Up to `SAMPLE` of the names, evenly spread, the first and the last among them."""
    short = [name for name in names if len(name) <= LONGEST]
    if len(short) <= SAMPLE:
        return short
    return [short[round(index * (len(short) - 1) / (SAMPLE - 1))] for index in range(SAMPLE)]


@dataclass
class Look:
    """`looked` names were looked for. Of these some are `missing`; some are links that lead `outside`."""

    looked: int = 0
    missing: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


def look(root: Path, names: Iterable[str], roots: Sequence[Path] = (), *, seconds: float | None = None) -> Look:
    """Look for files below `root`, whose links may lead to anywhere in it or in `roots` (real paths, both).

    What a name leads to is judged as it was opened; nothing outside is opened or listed. One listing per folder with
    many names: quick for a hundred thousand. After `seconds` no further look-up begins.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    by_folder: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        by_folder[name.rpartition("/")[0]].append(name)
    found = Look()
    for folder, inside in by_folder.items():
        sound = _plain_files(root / folder, (root, *roots)) if len(inside) >= LISTING else frozenset()
        for name in inside:
            if deadline is not None and time.monotonic() > deadline:
                return found
            found.looked += 1
            if name.rpartition("/")[2] not in sound:
                _look_for(root / name, name, (root, *roots), found)
    return found


def _look_for(path: Path, name: str, roots: Sequence[Path], found: Look) -> None:
    try:
        open_within(path, roots).close()
    except LeadsOutside:
        found.outside.append(name)
    except WrongKind:
        found.missing.append(name)
    except OSError as error:
        # A file that may be seen, but not read, is there: who reads it says why it cannot.
        if error.errno != errno.EACCES or not os.access(path.parent, os.X_OK):
            found.missing.append(name)


def _plain_files(folder: Path, roots: Sequence[Path]) -> frozenset[str]:
    """Names of regular files that are no links; none if the folder cannot be read or lies outside."""
    try:
        with open_within(folder, roots, folder=True) as opened, os.scandir(opened.descriptor) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    except (OSError, WrongKind, LeadsOutside):
        return frozenset()


OUTSIDE_REMEDY = (
    "Copy the files into the folder of the images, or name the folder that they lie in as a data root too "
    "(CROSSKD_DATA_ROOTS of the service; --data-root of a training without it)."
)


def explain_outside(outside: Sequence[str], looked: int) -> str:
    """For an error: the images that are links to somewhere else."""
    more = f" and {len(outside) - LISTED} more" if len(outside) > LISTED else ""
    names = ", ".join(f"{name!r:.120}" for name in outside[:LISTED])
    return f"{len(outside)} of {looked} images are links that lead out of the data: {names}{more}"
