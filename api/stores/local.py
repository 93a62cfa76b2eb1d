"""Artifacts in a folder of this machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from api.storage import STAGING, Occupied, OtherStart, Staged, StoredFile, check_key, check_part

PROBE = b"probe" * 1000  # bytes; a disk that is full takes an empty file


class LocalStaged:
    """A locked file: the kernel gives the lock back when its holder dies, so nothing is ever left locked."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        self.size = start
        self._hash = None if start else hashlib.sha256()  # of a part that is continued: reckoned at the end
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if start else os.O_CREAT), 0o600)
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

    def __enter__(self) -> LocalStaged:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class LocalStorage:
    """A folder on this machine: `<root>/staging` and a folder for each job."""

    direct = None

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / STAGING
        self._staging.mkdir(parents=True, exist_ok=True)

    def stage(self, part: str, start: int = 0) -> Staged:
        return LocalStaged(self._part(part), start)

    def staged_size(self, part: str) -> int:
        try:
            return self._part(part).stat().st_size
        except FileNotFoundError:
            return 0

    def publish(self, staged: Staged, key: str) -> None:
        if not isinstance(staged, LocalStaged):
            raise TypeError(f"{type(staged).__name__} was not staged here")
        target = self._path(key)
        staged.sync()
        target.parent.mkdir(exist_ok=True)
        staged.path.replace(target)
        _sync_folder(target.parent)
        _sync_folder(self._root)  # the job's folder may be new

    def open(self, key: str) -> BinaryIO:
        return self._path(key).open("rb")

    def link(self, key: str) -> None:  # noqa: ARG002 - the other storage has some
        return None

    def probe(self) -> None:
        with self.stage(os.urandom(32).hex()) as staged:
            try:
                staged.write(PROBE)
            finally:
                staged.discard()

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def files(self) -> Iterator[StoredFile]:
        now = time.time()
        for folder in self._root.iterdir():
            if folder.name == STAGING or not folder.is_dir():
                continue
            for path in folder.iterdir():
                with suppress(FileNotFoundError):  # deleted while we look
                    found = path.stat()
                    yield StoredFile(f"{folder.name}/{path.name}", now - found.st_mtime, found.st_size)

    def sweep_staging(self, older_than: float) -> int:
        removed = 0
        for path in self._staging.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink()
                    removed += 1
        return removed

    def _part(self, part: str) -> Path:
        return self._staging / check_part(part)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, not only the renamed file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
