"""Paths that a specification names, held inside the configured data roots."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from crosskd.spec.inputs import Input, LeadsOutside, WrongKind, open_within, real_path

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class PathRefused(Exception):
    """The path leads nowhere, or out of the roots; `detail` and `remedy` are for the client."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


def open_file(text: str, roots: Sequence[Path]) -> Input:
    """The file that `text` means, open: whoever reads it reads what was judged, whatever its path leads to by then.

    `text` is absolute, or relative to the first root that has it. Links and `..` are judged by where they end.
    Whether a file outside exists is not told. Raises `PathRefused`.
    """
    return _open(text, roots, folder=False)


def open_folder(text: str, roots: Sequence[Path]) -> Input:
    """As `open_file`, of a folder."""
    return _open(text, roots, folder=True)


def locate_folder(text: str, roots: Sequence[Path]) -> Path:
    """The real path of the folder that `text` means, as `open_file` has it. Raises `PathRefused`."""
    with _open(text, roots, folder=True) as found:
        if not os.access(found.path, os.X_OK):
            raise _unreadable(text, "Permission denied")
        return found.path


def _open(text: str, roots: Sequence[Path], *, folder: bool) -> Input:
    if "\x00" in text:
        raise PathRefused("the path holds a NUL character", "Remove it.")
    real_roots = [real_path(root) for root in roots]
    outside = False
    for root in real_roots:
        try:
            found = open_within(root / text, real_roots, folder=folder)  # an absolute `text` replaces the root
        except LeadsOutside:
            outside = True
        except WrongKind:
            raise _wrong_kind(text, folder) from None
        except OSError as error:
            if error.errno not in _ABSENT:
                raise _unreadable(text, error.strerror or str(error)) from None
        else:
            return _require_text(found)
    if outside:
        below = f"{'one of ' if len(roots) > 1 else ''}{_list(roots)}"
        raise PathRefused(
            f"{text!r} lies outside the data roots",
            f"Put it below {below}, or add its folder to CROSSKD_DATA_ROOTS of the API and the workers.",
        )
    raise PathRefused(f"{text!r} does not exist", f"Give an absolute path, or one relative to {_list(roots)}.")


def _wrong_kind(text: str, folder: bool) -> PathRefused:
    if folder:
        return PathRefused(f"{text!r} is not a folder", "Name the folder that the images' file names are relative to.")
    return PathRefused(f"{text!r} is not a file", "Name a regular file.")


def _unreadable(text: str, why: str) -> PathRefused:
    return PathRefused(f"{text!r} cannot be read: {why}", "Give the API's user the right to read it.")


def _require_text(found: Input) -> Input:
    """A link may lead to a name that is no UTF-8; neither JSON nor the database could carry it."""
    try:
        os.fspath(found.path).encode()
    except UnicodeEncodeError:
        found.close()
        name = os.fsencode(found.path)
        raise PathRefused(f"the path leads to {name!r}, which is not UTF-8", "Rename the file.") from None
    return found


def _list(roots: Sequence[Path]) -> str:
    return ", ".join(str(root) for root in roots)
