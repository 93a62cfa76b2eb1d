"""Graphs on this machine's disk, for the processes that use them: fetched once, verified by their sha256.

Several API processes may share the folder: what one of them has seen there, another may have removed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20  # bytes
ABANDONED = 24 * 3600.0  # seconds after which nobody fetches a file any more: its process was killed
_FETCHED = ".fetch-"


class DamagedModel(Exception):
    """The bytes that the storage gives are not those of the digest."""


class ModelCache:
    """A folder of graphs, each under its digest. Those that were used longest ago go when the folder is too large."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._lock = threading.Lock()  # one graph is fetched at a time, and none twice

    def path(self, sha256: str, open_file: Callable[[], BinaryIO]) -> Path:
        """Where the graph lies; `open_file` gives its bytes where it has to be fetched.

        Raises:
            DamagedModel: they are others.
            OSError: as the storage or the disk does.
        """
        path = self._folder / f"{sha256}.onnx"
        with self._lock:
            try:
                os.utime(path)  # it was used now; nothing is made where there is none
            except FileNotFoundError:
                self._fetch(path, sha256, open_file)
            self._make_room(path)
        return path

    def _fetch(self, path: Path, sha256: str, open_file: Callable[[], BinaryIO]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(prefix=_FETCHED, dir=self._folder)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as target, open_file() as source:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
            if digest.hexdigest() != sha256:
                raise DamagedModel
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, used: Path) -> None:
        """A graph that a process has open, or has loaded, is none the worse for it."""
        others: list[tuple[float, int, Path]] = []
        total = 0
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                found = path.stat()
                if path.name.startswith(_FETCHED) and found.st_mtime < time.time() - ABANDONED:
                    path.unlink()
                elif path.suffix == ".onnx":
                    total += found.st_size
                    others += [(found.st_mtime, found.st_size, path)] if path != used else []
        for _, size, path in sorted(others):
            if total <= self._limit:
                return
            total -= size
            path.unlink(missing_ok=True)
