"""Paths that a specification names, held inside the configured data roots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


class PathRefused(Exception):
    """The path leads nowhere, or out of the roots; `detail` and `remedy` are for the client."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


def inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def locate(text: str, roots: Sequence[Path]) -> Path:
    """The real path that `text` means: absolute, or relative to the first root that has it.

    Links and `..` are followed first and judged by where they end. Whether a file outside exists is not told.
    """
    if "\x00" in text:
        raise PathRefused("the path holds a NUL character", "Remove it.")
    real_roots = [Path(os.path.realpath(root)) for root in roots]
    candidates = [Path(os.path.realpath(root / text)) for root in real_roots]  # an absolute `text` replaces the root
    allowed = [path for path in candidates if inside(path, real_roots)]
    for path in allowed:
        if _exists(path):
            _require_text(path)
            return path
    if len(allowed) < len(candidates):
        raise PathRefused(
            f"{text!r} lies outside the data roots",
            f"Put it below one of {_list(roots)}, or add its folder to CROSSKD_DATA_ROOTS of the API and the workers.",
        )
    raise PathRefused(f"{text!r} does not exist", f"Give an absolute path, or one relative to {_list(roots)}.")


def locate_file(text: str, roots: Sequence[Path]) -> Path:
    path = locate(text, roots)
    if not path.is_file():
        raise PathRefused(f"{text!r} is not a file", "Name a regular file.")
    if not os.access(path, os.R_OK):
        raise PathRefused(f"{text!r} cannot be read", "Give the API's user the right to read it.")
    return path


def locate_folder(text: str, roots: Sequence[Path]) -> Path:
    path = locate(text, roots)
    if not path.is_dir():
        raise PathRefused(f"{text!r} is not a folder", "Name the folder that the images' file names are relative to.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise PathRefused(f"{text!r} cannot be entered", "Give the API's user the right to read it.")
    return path


def _require_text(path: Path) -> None:
    """A link may lead to a name that is no UTF-8; neither JSON nor the database could carry it."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise PathRefused(f"the path leads to {os.fsencode(path)!r}, which is not UTF-8", "Rename the file.") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than the file system takes
        return False


def _list(roots: Sequence[Path]) -> str:
    return ", ".join(str(root) for root in roots)
