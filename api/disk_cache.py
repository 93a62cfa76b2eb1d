"""Files on this machine's disk that can be made again: those that were used longest ago go when there are too many.

Several API processes may share the folder: what one of them has seen there, another may have removed.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ABANDONED = 24 * 3600.0  # seconds after which nobody makes a file any more: its process was killed
_UNFINISHED = ".fetch-"


class DiskCache:
    """A folder of files that end in `suffix`, `limit` bytes of them; the one in use is always kept."""

    def __init__(self, folder: Path, limit: int, suffix: str) -> None:
        self._folder, self._limit, self._suffix = folder, limit, suffix
        self._lock = threading.Lock()  # one file is made at a time, and none twice

    def known(self, name: str) -> Path | None:
        """Where the file lies, if it is there."""
        path = self._folder / f"{name}{self._suffix}"
        try:
            os.utime(path)  # it was used now; nothing is made where there is none
        except FileNotFoundError:
            return None
        return path

    def path(self, name: str, make: Callable[[Path], None]) -> Path:
        """Where the file lies; `make` writes it to the path it is given. Raises what `make` does, and `OSError`."""
        with self._lock:
            path = self.known(name) or self._made(self._folder / f"{name}{self._suffix}", make)
            self._make_room(path)
        return path

    def _made(self, path: Path, make: Callable[[Path], None]) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._folder)
        os.close(descriptor)
        temporary = Path(name)
        try:
            make(temporary)
            return temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, used: Path) -> None:
        """A file that somebody has open is none the worse for it."""
        others: list[tuple[float, int, Path]] = []
        total = 0
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                found = path.stat()
                if path.name.startswith(_UNFINISHED) and found.st_mtime < time.time() - ABANDONED:
                    path.unlink()
                elif path.suffix == self._suffix:
                    total += found.st_size
                    others += [(found.st_mtime, found.st_size, path)] if path != used else []
        for _, size, path in sorted(others):
            if total <= self._limit:
                return
            total -= size
            path.unlink(missing_ok=True)
