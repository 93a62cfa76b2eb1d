"""Where artifacts lie. A key, `<job>/<id>-<name>`, is written once; its bytes never change afterwards.

Publishing has two phases. A file is staged, verified, then published under a new key that no row names yet; the
transaction that names the key in the database makes it visible. A crash in between leaves a file that nobody
names, which `services.artifacts.sweep` removes; it never leaves a row without its file.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, BinaryIO, NamedTuple, Protocol

from fastapi import Depends, Request

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,250}")
_STAGING = "staging"


class StoredFile(NamedTuple):
    key: str
    age: float  # seconds since it was written


class Staged(Protocol):
    """Bytes on their way in. Leaving the context without `Storage.publish` leaves nothing behind."""

    size: int

    def write(self, chunk: bytes) -> None: ...

    def sha256(self) -> bytes: ...

    def __enter__(self) -> Staged: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Storage(Protocol):
    """A place for artifacts. Every method blocks; a caller with an event loop uses a thread."""

    def stage(self) -> Staged:
        """Begin a file of any size."""

    def publish(self, staged: Staged, key: str) -> None:
        """Make the staged bytes durable under a key that was never used before."""

    def open(self, key: str) -> BinaryIO:
        """The bytes, seekable; a file that is open stays readable when its key is deleted. FileNotFoundError."""

    def delete(self, key: str) -> None:
        """Forget a key; one that is gone already is no error."""

    def files(self) -> Iterator[StoredFile]:
        """Every published file, in no order."""

    def sweep_staging(self, older_than: float) -> int:
        """Remove what uploads that died have left; how many. `older_than` in seconds since the last write."""


class _LocalStaged:
    def __init__(self, folder: Path) -> None:
        descriptor, name = tempfile.mkstemp(dir=folder)
        self.path = Path(name)
        self.size = 0
        self._hash = hashlib.sha256()
        self._file = os.fdopen(descriptor, "wb", buffering=0)

    def write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(chunk)
        self.size += len(chunk)

    def sha256(self) -> bytes:
        return self._hash.digest()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def __enter__(self) -> _LocalStaged:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)  # it has another name by now if it was published


class LocalStorage:
    """A folder on this machine: `<root>/staging` and a folder for each job."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / _STAGING
        self._staging.mkdir(parents=True, exist_ok=True)

    def stage(self) -> Staged:
        return _LocalStaged(self._staging)

    def publish(self, staged: Staged, key: str) -> None:
        if not isinstance(staged, _LocalStaged):
            raise TypeError(f"{type(staged).__name__} was not staged here")
        target = self._path(key)
        staged.sync()
        target.parent.mkdir(exist_ok=True)
        staged.path.replace(target)
        _sync_folder(target.parent)
        _sync_folder(self._root)  # the job's folder may be new

    def open(self, key: str) -> BinaryIO:
        return self._path(key).open("rb")

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def files(self) -> Iterator[StoredFile]:
        now = time.time()
        for folder in self._root.iterdir():
            if folder.name == _STAGING or not folder.is_dir():
                continue
            for path in folder.iterdir():
                with suppress(FileNotFoundError):  # deleted while we look
                    yield StoredFile(f"{folder.name}/{path.name}", now - path.stat().st_mtime)

    def sweep_staging(self, older_than: float) -> int:
        removed = 0
        for path in self._staging.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink()
                    removed += 1
        return removed

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key) or key.startswith(f"{_STAGING}/"):
            raise ValueError(f"{key!r} is no storage key")
        return self._root / key


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, not only the renamed file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage(request: Request) -> Storage:
    storage: Storage = request.app.state.storage
    return storage


StorageDep = Annotated[Storage, Depends(_storage)]
