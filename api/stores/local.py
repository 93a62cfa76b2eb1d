"""Artifacts in a folder of this machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from api.storage import (
    STAGING,
    OffsetMismatch,
    PartLocked,
    StagedUpload,
    StorageUnavailable,
    StoredFile,
    check_key,
    check_part,
)

_JOB = re.compile(r"[0-9a-f]{32}")  # what the folder of a job is called
PROBE = b"probe" * 1000  # bytes; a disk that is full takes an empty file


class LocalStagedUpload:
    """A locked file: the kernel gives the lock back when its holder dies, so nothing is ever left locked."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        self.size = start
        self._hash = None if start else hashlib.sha256()  # of a part that is continued: reckoned at the end
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if start else os.O_CREAT), 0o600)
        except FileNotFoundError:
            raise OffsetMismatch(0) from None
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
                raise PartLocked
        except (BlockingIOError, FileNotFoundError):
            raise PartLocked from None
        size = os.fstat(self._file.fileno()).st_size
        if start and size != start:
            raise OffsetMismatch(size)
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

    def __enter__(self) -> LocalStagedUpload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class LocalStorage:
    """A folder on this machine: `<root>/staging` and a folder for each job."""

    direct_uploads = None

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / STAGING
        self._staging.mkdir(parents=True, exist_ok=True)

    def stage(self, part: str, start: int = 0) -> StagedUpload:
        return LocalStagedUpload(self._part(part), start)

    def staged_size(self, part: str) -> int:
        try:
            return self._part(part).stat().st_size
        except FileNotFoundError:
            return 0

    def publish(self, staged: StagedUpload, key: str) -> None:
        if not isinstance(staged, LocalStagedUpload):
            raise TypeError(f"{type(staged).__name__} was not staged here")
        target = self._path(key)
        staged.sync()
        try:
            _move(staged.path, target)
        except FileNotFoundError:  # a deletion has just removed the folder, which was empty
            _move(staged.path, target)
        _sync_folder(target.parent)
        _sync_folder(self._root)  # the job's folder may be new

    def open(self, key: str) -> BinaryIO:
        with self._there():
            return self._path(key).open("rb")

    def size(self, key: str) -> int:
        with self._there():
            return self._path(key).stat().st_size

    def presigned_url(self, key: str) -> None:  # noqa: ARG002 - the other storage has some
        return None

    def probe(self) -> None:
        with self.stage(os.urandom(32).hex()) as staged:
            try:
                staged.write(PROBE)
            finally:
                staged.discard()

    def delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        with suppress(OSError):  # it holds more, or is gone
            path.parent.rmdir()

    def files(self) -> Iterator[StoredFile]:
        now = time.time()
        for folder in self._root.iterdir():
            if folder.name == STAGING or not folder.is_dir():
                continue
            for path in _entries(folder):
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

    @contextmanager
    def _there(self) -> Iterator[None]:
        """A file that is missing is not gone where all are: a disk that is not mounted may come back."""
        try:
            yield
        except FileNotFoundError:
            if not self._staging.is_dir():
                raise StorageUnavailable(f"{self._root} is no folder of artifacts") from None
            raise

    def _part(self, part: str) -> Path:
        return self._staging / check_part(part)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder: nothing, if its last file went meanwhile, or it is a stranger's and closed to us.

    The top of a disk has one such, `lost+found`.
    """
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except PermissionError:
        if _JOB.fullmatch(folder.name):
            raise
        return []


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    source.replace(target)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, not only the renamed file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
