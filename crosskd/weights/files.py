"""Files that a reader sees wholly or not at all, and that survive a power cut."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from crosskd.errors import CrossKDError
from crosskd.spec.detr.folder import read_folder
from crosskd.spec.inputs import is_folder, opened, opened_in
from crosskd.spec.results.files import FileKind

SUFFIX = ".tmp"


@dataclass(frozen=True)
class File:
    """A file of a run that stands complete at `path`, as whoever wrote it knows it."""

    path: Path
    kind: FileKind
    step: int  # the run's, when it was made; of weights and curves, that of their evaluation
    sha256: str  # in hex, of the bytes that were written: a disk that changes them is found out

    @property
    def name(self) -> str:
        """As `crosskd.spec.results.files` has it."""
        return self.path.name


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hex; of a folder of weights, that of the lines that sha256sum writes of what is read."""
    if is_folder(path):
        return _folder_digest(path)
    with opened(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder_digest(path: Path) -> str:
    names = read_folder(path.name, lambda name: opened_in(path, name).open("rb")).all_files
    lines = []
    for name in sorted(names):
        with opened_in(path, name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a temporary file beside `path`; what the block wrote into it then takes the place of `path`.

    If the block or the disk fails, `path` is as it was and the temporary file is gone. Raises `OSError`, or
    `CrossKDError` where a library hides it (both torch and safetensors report a full disk by an error of their own).
    """
    temporary = _beside(path)
    try:
        with _disk_errors(path):
            yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, to be filled with files; with all of them it then becomes `path`.

    If the block or the disk fails, nothing is at `path` and the temporary folder is gone. Raises as `replacing` does,
    and `OSError` where something stands at `path`, an empty folder apart.
    """
    temporary = _beside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process of the same id: in containers they are few
    try:
        temporary.mkdir()
        with _disk_errors(path):
            yield temporary
        for file in (*temporary.iterdir(), temporary):
            _sync(file)
        temporary.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> str:
    """Write a text file in UTF-8. Returns its sha256 in hex. Raises `OSError`."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> str:
    """Write a file. Returns its sha256 in hex. Raises `OSError`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of a process that was killed while it wrote. Nobody may write there."""
    for path in folder.glob(f"*{SUFFIX}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise CrossKDError(
            f"{path.name} cannot be written: {reason}",
            where=str(path),
            remedy="Free space on its disk, and check that the folder can be written to.",
        ) from error


def _sync(path: Path) -> None:
    """Have the operating system put a file, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
