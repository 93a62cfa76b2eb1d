"""Images that no annotation file names: those of a folder, or those of a list. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from crosskd.errors import DataError
from crosskd.spec.coco.fields import encodes, unsafe_name

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})
LARGEST_LIST = 64 << 20  # bytes; a million names
REMEDY = "Give a JSON list of names, or one name a line, relative to the folder of the images."
NO_NAMES = "the list of images names none"
# How files of these formats begin; what else there is behind a suffix is no image.
_BEGINNINGS = (b"\xff\xd8", b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"GIF8", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")


def image_names(folder: int, late: Callable[[], bool] = lambda: False) -> Iterator[str]:
    """Files that are called images, in a folder (a descriptor of it) and below it, by name; relative to it.

    Links to folders are not followed. No more folders are listed than are asked for; once it is `late`, no further one.
    """
    for below, folders, names, _ in os.fwalk(".", dir_fd=folder):
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES:
                yield (Path(below) / name).as_posix()
        if late():
            return


def read_names(file: BinaryIO, where: str) -> list[str]:
    """The names that a list has, in its order; empty lines are none. `where` is the list's name in messages.

    Raises `DataError` where it is no list of names, or a name leads out of the folder.
    """
    content = file.read(LARGEST_LIST + 1)
    if len(content) > LARGEST_LIST:
        raise DataError(
            f"the list of images has more than {LARGEST_LIST >> 20} MiB", where=where, remedy="Name a folder instead."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("the list of images is not UTF-8", where=where, remedy=REMEDY) from None
    names = _of_json(text, where) if text.lstrip().startswith(("[", "{")) else _of_lines(text)
    for number, name in enumerate(names, start=1):
        if fault := unsafe_name(name) or _unspeakable(name):
            raise DataError(f"name {number} of the list, {name!r:.120}, {fault}", where=where, remedy=REMEDY)
    return names


def _unspeakable(name: str) -> str:
    if "\0" in name:
        return "holds a NUL character"
    return "" if encodes(name) else "holds half a surrogate pair"


def _of_json(text: str, where: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError("the list of images is not valid JSON", where=where, remedy=REMEDY) from None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError("the list of images is not a JSON list of names", where=where, remedy=REMEDY)
    return found


def _of_lines(text: str) -> list[str]:
    return [line for line in (line.strip() for line in text.splitlines()) if line]


def begins_like_an_image(beginning: bytes) -> bool:
    """By the first 12 bytes of a file."""
    return beginning.startswith(_BEGINNINGS) or (beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP")
