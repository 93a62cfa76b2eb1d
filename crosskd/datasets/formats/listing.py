"""What lies in the folders of a source: images, and label files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.formats.opening import Sources
from crosskd.errors import DataError
from crosskd.spec.data.image_list import SUFFIXES
from crosskd.spec.inputs import LeadsOutside, WrongKind, open_within

MOST_FILES = 5_000_000  # that are listed; a source of more is no data set


def files_below(sources: Sources, folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Files of these suffixes in a folder and below it, by name; links to folders are not followed.

    None where the folder is not there, or lies where nothing may be read. Raises: `DataError` for far too many.
    """
    number = 0
    try:
        with open_within(folder, sources.allowed(), folder=True) as opened:
            for below, folders, names, _ in os.fwalk(".", dir_fd=opened.descriptor):
                folders.sort()
                for name in sorted(names):
                    if PurePosixPath(name).suffix.lower() in suffixes:
                        number += 1
                        if number > MOST_FILES:
                            raise DataError(
                                f"{sources.name(folder)} holds more than {MOST_FILES} files",
                                remedy="Name a folder of less.",
                            )
                        yield folder / below / name
    except (OSError, WrongKind, LeadsOutside):
        return


def unlisted_images(
    sources: Sources, root: Path, folders: Iterable[Path], listed: Iterable[str], faults: DatasetFaults
) -> None:
    """Count the images of those folders that hold a listed one, and are listed nowhere."""
    known = set(listed)
    used = {PurePosixPath(name).parent for name in known}
    for folder in dict.fromkeys(folders):
        for path in files_below(sources, folder, SUFFIXES):
            name = path.relative_to(root).as_posix()
            if name not in known and PurePosixPath(name).parent in used:
                known.add(name)
                faults.add("unlisted_image", name, "", "no annotation names it")
