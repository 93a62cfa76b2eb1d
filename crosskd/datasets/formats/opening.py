"""The files of a source: opened in its folder and in the data roots, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from crosskd.errors import ConfigError, DataError
from crosskd.spec.coco.image_files import OUTSIDE_REMEDY
from crosskd.spec.inputs import LeadsOutside, WrongKind, inside, open_within, real_path


def is_there(path: Path, *, file: bool = False) -> bool:
    """Whether there is anything, or a file; a name that none could have, or a closed folder, is not there."""
    try:
        return path.is_file() if file else path.exists()
    except (OSError, ValueError):
        return False


class Sources:
    """The folder of a source, and the file in it that was named, if one was.

    `roots` are further folders (real paths) that links in it may lead to.
    """

    def __init__(self, source: Path, roots: Sequence[Path] = ()) -> None:
        if not is_there(source):
            raise ConfigError(f"there is no data set {str(source)!r}", remedy="Name a folder, or an annotation file.")
        self.file = None if source.is_dir() else real_path(source.parent) / source.name
        self.folder = real_path(source if self.file is None else source.parent)
        self.roots = list(roots)

    def allow(self, folder: Path) -> Path:
        """Let files of `folder` be read, too: whoever imports has named it. Returns where it really lies.

        Raises: `ConfigError` if it is none.
        """
        real = real_path(folder)
        if not real.is_dir():
            raise ConfigError(f"there is no folder {str(folder)!r}", remedy="Check the path of the images.")
        self.roots.append(real)
        return real

    def allowed(self) -> list[Path]:
        """The folders whose files may be read: real paths."""
        return list(dict.fromkeys((self.folder, *self.roots)))

    def name(self, path: Path) -> str:
        """How messages call a file: relative to the source's folder."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)

    def is_inside(self, path: Path) -> bool:
        """Whether a path leads to where files may be read."""
        return inside(Path(os.path.realpath(path)), self.allowed())

    @contextmanager
    def open(self, path: Path) -> Iterator[BinaryIO]:
        """Raises: `DataError` if it leads out of the source and the roots, or cannot be opened."""
        try:
            found = open_within(path, self.allowed())
        except LeadsOutside:
            raise DataError(
                "the file is a link that leads out of the data", where=str(path), remedy=OUTSIDE_REMEDY
            ) from None
        except WrongKind:
            raise DataError("it is no regular file", where=str(path), remedy="Name a file.") from None
        except OSError as error:
            raise DataError(
                f"the file cannot be read: {error.strerror}",
                where=str(path),
                remedy="Check the path and its permissions.",
            ) from None
        with found, found.reader() as file:
            yield file

    def read(self, path: Path, most: int) -> bytes:
        """All of a file. Raises: `DataError` if it has more than `most` bytes, and as `open` does."""
        with self.open(path) as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise DataError(
                f"the file has more than {most >> 20} MiB", where=str(path), remedy="Divide it, or name another file."
            )
        return content
