"""Where artifacts lie. A key, `<job>/<id>-<name>`, is written once; its bytes never change afterwards.

Publishing has two phases. A file is staged, verified, then published under a new key that no row names yet; the
transaction that names the key in the database makes it visible. A crash in between leaves a file that nobody
names, which `services.artifacts.sweep` removes; it never leaves a row without its file.

Staged bytes outlive the request that brought them, under a name of their own: whoever comes back brings the rest.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, BinaryIO, NamedTuple, Protocol

from fastapi import Depends, Request

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,250}")
_PART = re.compile(r"[0-9a-f]{64}")
_STAGING = "staging"


class Occupied(Exception):
    """Somebody else is writing the very same part."""


class OtherStart(Exception):
    """The part has another size than the one to go on from."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the part has {size} bytes")
        self.size = size


class StoredFile(NamedTuple):
    key: str
    age: float  # seconds since it was written


class Staged(Protocol):
    """Bytes on their way in, held by one writer. What is neither published nor discarded waits for the rest."""

    size: int

    def write(self, chunk: bytes) -> None:
        """Append."""

    def sha256(self) -> bytes:
        """Of all bytes, also of those that came earlier."""

    def discard(self) -> None:
        """Forget them."""

    def __enter__(self) -> Staged: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Storage(Protocol):
    """A place for artifacts. Every method blocks; a caller with an event loop uses a thread."""

    def stage(self, part: str, start: int = 0) -> Staged:
        """Begin the file of any size that `part` (64 hex digits) names, or go on at byte `start`.

        Raises:
            Occupied: another request, in whichever process, is at it.
            OtherStart: to go on, it would have to start elsewhere.
        """

    def staged_size(self, part: str) -> int:
        """How many bytes of it there are."""

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
    """A locked file: the kernel gives the lock back when its holder dies, so nothing is ever left locked."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        self.size = start
        self._hash = None if start else hashlib.sha256()  # of a part that is continued: reckoned at the end
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (0 if start else os.O_CREAT), 0o600)
        except FileNotFoundError:
            raise OtherStart(0) from None
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            self._take(start)
        except BaseException:
            self._file.close()
            raise

    def _take(self, start: int) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking its last holder may have published it: then these are not our bytes any more.
            if not self._stands():
                raise Occupied
        except (BlockingIOError, FileNotFoundError):
            raise Occupied from None
        size = os.fstat(self._file.fileno()).st_size
        if start and size != start:
            raise OtherStart(size)
        self._file.truncate(start)
        self._file.seek(start)

    def _stands(self) -> bool:
        """Whether the open file is the one that the part's name means."""
        return os.fstat(self._file.fileno()).st_ino == self.path.stat().st_ino

    def write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        if self._hash is not None:
            self._hash.update(chunk)
        self.size += len(chunk)

    def sha256(self) -> bytes:
        if self._hash is None:
            self._file.seek(0)
            return hashlib.file_digest(self._file, "sha256").digest()
        return self._hash.digest()

    def discard(self) -> None:
        with suppress(FileNotFoundError):
            if self._stands():
                self.path.unlink()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def __enter__(self) -> _LocalStaged:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class LocalStorage:
    """A folder on this machine: `<root>/staging` and a folder for each job."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / _STAGING
        self._staging.mkdir(parents=True, exist_ok=True)

    def stage(self, part: str, start: int = 0) -> Staged:
        return _LocalStaged(self._part(part), start)

    def staged_size(self, part: str) -> int:
        try:
            return self._part(part).stat().st_size
        except FileNotFoundError:
            return 0

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

    def _part(self, part: str) -> Path:
        if not _PART.fullmatch(part):
            raise ValueError(f"{part!r} is no name of a part")
        return self._staging / part

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
