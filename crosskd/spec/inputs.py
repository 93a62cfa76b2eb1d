"""Files and folders that a configuration names: opened once, and judged by what was really opened.

A path says little of what is read through it: a link in it can be changed between a look and the opening. So the path
is asked only whether opening it is worth while; what counts is where the open descriptor lies. Imports no torch.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

TRIES = 5  # of a path that changes while it is looked at
# Without NONBLOCK, opening a pipe that took the file's place would wait for ever.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GONE = " (deleted)"  # what Linux appends to the path of a file that lies nowhere any more
_LONGEST = 1024  # bytes of a path, of what macOS tells of a descriptor


class LeadsOutside(Exception):
    """The path leads out of the roots. Whether there is anything is not told."""


class WrongKind(Exception):
    """A folder, pipe or device stands where a regular file should, or anything where a folder should."""


@dataclass(frozen=True)
class Input:
    """An open file or folder, and the path, without links, where it lay when it was opened; `with` closes it."""

    path: Path
    descriptor: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.descriptor)

    def reader(self) -> BinaryIO:
        """The file from its first byte on. Two readers share their place: use one after the other."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return open(self.descriptor, "rb", closefd=False)


def inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def open_within(path: Path | str, roots: Sequence[Path], *, folder: bool = False) -> Input:
    """The regular file, or the folder, that `path` leads to; `roots` are real paths, as `real_path` gives them.

    Links and `..` are welcome as long as they end inside the roots. Nothing outside is opened, unless a link is
    changed in this very moment; then it is closed unread.

    Raises:
        LeadsOutside: it does not lie in one of the roots.
        WrongKind: it is no regular file, or no folder.
        OSError: it is not there, or cannot be opened.
    """
    code = errno.EAGAIN
    for _ in range(TRIES):
        try:
            expected = Path(os.path.realpath(path))
        except OSError:  # a link that was replaced while it was followed
            continue
        if not inside(expected, roots):
            raise LeadsOutside(os.fspath(path))
        status = expected.lstat()
        if stat.S_ISLNK(status.st_mode):  # links in a circle, or it was none when it was followed
            code = errno.ELOOP
            continue
        _require_kind(status, folder)  # before opening it: to open a device can do something
        descriptor = os.open(expected, _FLAGS)
        try:
            status = os.fstat(descriptor)
            real = _path_of(descriptor, status, expected)
            if real is not None and not inside(real, roots):
                raise LeadsOutside(os.fspath(path))
            _require_kind(status, folder)
        except BaseException:
            os.close(descriptor)
            raise
        if real is not None:
            return Input(real, descriptor)
        os.close(descriptor)  # another file has taken its place by now: that one is meant
    raise OSError(code, "it is replaced again and again", os.fspath(path))


def _require_kind(status: os.stat_result, folder: bool) -> None:
    if not (stat.S_ISDIR(status.st_mode) if folder else stat.S_ISREG(status.st_mode)):
        raise WrongKind


def real_path(path: Path | str) -> Path:
    """Where a folder lies, links followed, spelt as the system spells it for what was opened below it."""
    try:
        descriptor = os.open(path, _FLAGS | os.O_DIRECTORY)
    except OSError:  # not there (yet), or only its entries may be entered
        return Path(os.path.realpath(path))
    try:
        expected = Path(os.path.realpath(path))
        return _path_of(descriptor, os.fstat(descriptor), expected) or expected
    finally:
        os.close(descriptor)


def _path_of(descriptor: int, status: os.stat_result, expected: Path) -> Path | None:
    """Where an open file lies; None: nowhere any more, since it was removed or replaced."""
    if sys.platform == "darwin":
        return Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(_LONGEST)).rstrip(b"\0")))
    try:
        real = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:  # a system without /proc: the path that was opened will do if it leads there still
        return expected if _leads_to(expected, status) else None
    return None if real.name.endswith(_GONE) and not _leads_to(real, status) else real


def _leads_to(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except OSError:
        return False


# --- inputs that were opened before the code that reads them begins -------------------------------------------------

_pinned: dict[str, Input] = {}  # by the path as the configuration names it


@contextmanager
def pinned(inputs: Mapping[str, Input]) -> Iterator[None]:
    """Within the block, what is read by one of these paths is what was opened, whatever lies there by then.

    It holds for the whole process: a training has one configuration. Processes that it starts know nothing of it.
    """
    before = dict(_pinned)
    _pinned.update({_key(path): found for path, found in inputs.items()})
    try:
        yield
    finally:
        _pinned.clear()
        _pinned.update(before)


def _key(path: Path | str) -> str:
    return str(Path(path))  # as the code that reads it may spell it: without doubled slashes


def opened(path: Path | str) -> Path:
    """The path by which to open the file `path` now: that of its descriptor, if it is pinned.

    Names, endings and messages are to come from `path` itself. One reader at a time: where the system gives each
    descriptor one place only, the file is rewound here.
    """
    found = _pinned.get(_key(path))
    if found is None:
        return Path(path)
    os.lseek(found.descriptor, 0, os.SEEK_SET)
    return Path(f"/dev/fd/{found.descriptor}")


def is_folder(path: Path | str) -> bool:
    """Whether `path` is a folder: judged already, if it is pinned."""
    found = _pinned.get(_key(path))
    return Path(path).is_dir() if found is None else stat.S_ISDIR(os.fstat(found.descriptor).st_mode)


def opened_in(folder: Path | str, name: str) -> Path:
    """As `opened`, of the file `name` in a `folder`: of a pinned one only what was opened with it is there.

    Raises `FileNotFoundError` for anything else in it.
    """
    path = Path(folder) / name
    if _key(folder) in _pinned and _key(path) not in _pinned:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    return opened(path)


def folder_path(path: Path | str) -> Path:
    """Where the folder `path` lies, links followed: judged already, if it is pinned."""
    found = _pinned.get(_key(path))
    return real_path(path) if found is None else found.path
