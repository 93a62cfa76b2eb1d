"""Graphs on this machine's disk, for the processes that use them: fetched once, verified by their sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from api.disk_cache import DiskCache

CHUNK = 1 << 20  # bytes


class DamagedModel(Exception):
    """The bytes that the storage gives are not those of the digest."""


class ModelCache:
    """A folder of graphs, each under its digest. Those that were used longest ago go when the folder is too large."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._files = DiskCache(folder, limit, ".onnx")

    def path(self, sha256: str, open_file: Callable[[], BinaryIO]) -> Path:
        """Where the graph lies; `open_file` gives its bytes where it has to be fetched.

        Raises:
            DamagedModel: they are others.
            OSError: as the storage or the disk does.
        """

        def fetch(path: Path) -> None:
            digest = hashlib.sha256()
            with path.open("wb") as target, open_file() as source:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
            if digest.hexdigest() != sha256:
                raise DamagedModel

        return self._files.path(sha256, fetch)
