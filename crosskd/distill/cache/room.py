"""The disk that the caches of several teachers share, and which of them make way."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

IN_USE = 3600.0  # seconds since a folder was last said to be in use, within which it stays
FREE = 2**30  # bytes of the disk that are left to others
SHARE = 8  # it is counted anew whenever one process has written so much of what was free: others write as well


@dataclass
class Room:
    """A folder with a folder for each teacher, of `bytes` in all."""

    folder: Path
    bytes: int
    used: int = field(default=0, init=False)  # as it was last counted, and what was written since
    _recount: int = field(default=0, init=False)  # from how many bytes on it is counted anew

    def make_way(self, mine: Path) -> None:
        """Count what is there, and remove what is too much: other teachers' first, of these the longest unused."""
        self._count()
        self._remove_others(mine, self.used - self.bytes)
        if self.used > self.bytes:
            self._remove_oldest(mine, self.used - self.bytes)

    def takes(self, size: int, mine: Path) -> bool:
        """Whether `size` more bytes may be written, if need be in the place of other teachers'. May raise `OSError`."""
        if self.used + size > self._recount:
            self._count()
        if self.used + size > self.bytes:
            self._remove_others(mine, self.used + size - self.bytes)
        return self.used + size <= self.bytes and shutil.disk_usage(self.folder).free > size + FREE

    def _count(self) -> None:
        self.used = folder_bytes(self.folder)
        self._recount = self.used + max(0, self.bytes - self.used) // SHARE

    def _remove_others(self, mine: Path, wanted: int) -> None:
        """At least `wanted` bytes, if there are as many that nobody uses."""
        for folder in sorted(_folders(self.folder), key=_last_used):
            if wanted <= 0:
                return
            if folder == mine or time.time() - _last_used(folder) < IN_USE:
                continue
            freed = folder_bytes(folder)
            shutil.rmtree(folder, ignore_errors=True)
            log.info("the teacher cache %s has made way: %d MiB", folder.name[:12], freed // 2**20)
            wanted, self.used = wanted - freed, self.used - freed

    def _remove_oldest(self, mine: Path, wanted: int) -> None:
        """Entries of `mine`, the longest there first."""
        found = sorted((status.st_mtime, path, status.st_size) for path, status in _files(mine))
        for _, path, size in found:
            if wanted <= 0:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                wanted, self.used = wanted - size, self.used - size


def folder_bytes(folder: Path) -> int:
    """Of all files below it."""
    return sum(status.st_size for _, status in _files(folder))


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Not by `rglob`: that raises where another process removes a folder meanwhile."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(OSError):
                if stat.S_ISREG((found := path.lstat()).st_mode):
                    yield path, found


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
