"""Where entries of the teacher cache lie: in the memory of this process, or in a folder that several jobs share."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crosskd.distill.cache.entries import Damaged, Entry, pack, size_of, unpack
from crosskd.distill.cache.room import Room, folder_bytes

log = logging.getLogger(__name__)

THREADS = 8  # that read the entries of a batch; hashing and reading let go of the interpreter
TOUCHED = 60.0  # seconds between two notes that a folder is in use
RETRY = 600.0  # seconds after which a full disk is asked again: other teachers may have made way


class Store(ABC):
    """Entries by key, up to a limit. One that is over it keeps what it has: an epoch reads each entry once."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        self.limit = limit
        self.bytes = 0  # kept so far
        self.damaged = 0  # entries that were not what had been written
        self.full = False  # keeps no more, for now
        self._told = False

    @abstractmethod
    def read(self, keys: Sequence[str]) -> list[Entry | None]:
        """The entries of these keys; None where there is none, or none that is sound."""

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether there is an entry, sound or not."""

    @abstractmethod
    def write(self, entries: Mapping[str, Entry]) -> None:
        """Keep these, as far as there is room."""

    def _stop(self, why: str) -> None:
        self.full = True
        if not self._told:
            self._told = True
            log.warning("the teacher cache keeps no more than %d MiB: %s", self.bytes // 2**20, why)


class MemoryStore(Store):
    """In this process."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._entries: dict[str, Entry] = {}

    def read(self, keys: Sequence[str]) -> list[Entry | None]:
        return [self._entries.get(key) for key in keys]

    def has(self, key: str) -> bool:
        return key in self._entries

    def write(self, entries: Mapping[str, Entry]) -> None:
        for key, entry in entries.items():
            if (size := size_of(entry)) + self.bytes > self.limit:
                self._stop("distill.cache.limit_mib is reached; the teacher runs for the rest")
                return
            if key not in self._entries:
                self._entries[key] = entry
                self.bytes += size


class DiskStore(Store):
    """One file an entry, in a folder of one teacher below `room`. Other processes may read and write there as well."""

    def __init__(self, room: Room, name: str, limit: int, *, processes: int = 1) -> None:
        """`limit` is of this folder, shared by so many `processes`, each of which counts what it writes itself.

        The room has its own, of all teachers. Raises `OSError` where it cannot be written.
        """
        super().__init__(limit)
        self.room, self.folder = room, room.folder / name
        self._open()
        self.room.make_way(self.folder)
        self.bytes = folder_bytes(self.folder)
        self.limit = self.bytes + max(0, limit - self.bytes) // processes
        self._touched = self._stopped = 0.0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="teacher-cache")
        self._touch()

    def read(self, keys: Sequence[str]) -> list[Entry | None]:
        self._touch()
        return list(self._threads.map(self._read, keys))

    def has(self, key: str) -> bool:
        return self._path(key).exists()

    def write(self, entries: Mapping[str, Entry]) -> None:
        if self.full and time.monotonic() - self._stopped < RETRY:
            return
        try:
            why = self._written(entries)
        except OSError as error:
            why = f"{error.strerror}; the teacher runs for the rest"
        if why:
            self._stop(why)
        else:
            self.full = False

    def _written(self, entries: Mapping[str, Entry]) -> str:
        """Write these, and say why not all of them are kept; nothing where they are."""
        self._open()
        for key, content in zip(entries, self._threads.map(pack, entries, entries.values()), strict=True):
            if self.bytes + len(content) > self.limit:
                return "distill.cache.limit_mib is reached; the teacher runs for the rest"
            if not self.room.takes(len(content), self.folder):
                return f"{self.room.folder} has as much as this worker allows; the teacher runs for the rest"
            self._write(key, content)
        return ""

    def _stop(self, why: str) -> None:
        self._stopped = time.monotonic()
        super()._stop(why)

    def _open(self) -> None:
        """The folder, for this user alone; made anew if it was removed meanwhile."""
        self.room.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)
            self.bytes = 0

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _read(self, key: str) -> Entry | None:
        path = self._path(key)
        try:
            return unpack(key, path.read_bytes())
        except FileNotFoundError:
            return None
        except (Damaged, OSError) as error:
            self.damaged += 1
            what = "is damaged" if isinstance(error, Damaged) else f"cannot be read ({error.strerror})"
            log.warning("an entry of the teacher cache %s, and is made anew: %s", what, path.name)
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def _write(self, key: str, content: bytes) -> None:
        """A reader sees all of it or nothing. Nothing waits for the disk: what a power cut leaves is found damaged."""
        path = self._path(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")  # containers have the same process ids
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
        self.bytes += len(content)
        self.room.used += len(content)

    def _touch(self) -> None:
        """Say that the folder is in use, so that nobody makes way by removing it."""
        if time.monotonic() - self._touched > TOUCHED or not self._touched:
            self._touched = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.folder)
