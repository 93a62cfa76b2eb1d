"""Graphs on this machine's disk, for the processes that use them: fetched once, verified by their sha256."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20  # bytes


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
            if not path.exists():
                self._fetch(path, sha256, open_file)
            path.touch()
            self._make_room(path)
        return path

    def _fetch(self, path: Path, sha256: str, open_file: Callable[[], BinaryIO]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(prefix=".fetch-", dir=self._folder)
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
        others = [path for path in self._folder.glob("*.onnx") if path != used]
        total = used.stat().st_size + sum(path.stat().st_size for path in others)
        for path in sorted(others, key=lambda path: path.stat().st_mtime):
            if total <= self._limit:
                return
            total -= path.stat().st_size
            path.unlink()
