"""What `crosskd predict` leaves in a folder, and the names of it. Imports neither torch nor Pillow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from crosskd.errors import ConfigError
from crosskd.spec.results.predictions import Predictions

ANSWER = "predictions.json"


class OutputFolder:
    """A folder for pictures and `predictions.json`: no name is used twice, and no image that was given is replaced."""

    def __init__(self, folder: Path, images: Sequence[Path]) -> None:
        """Make the folder where it is missing. Raises `ConfigError` where it cannot be written."""
        self.folder = folder
        self._taken = {_key(path) for path in images} | {_key(folder / ANSWER)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            message = f"the folder cannot be written: {error.strerror}"
            raise ConfigError(message, where=str(folder), remedy="Name another one with -o.") from error

    def picture(self, image: Path) -> Path:
        """Where the picture of an image goes: always in the folder itself."""
        stem, number = f"{image.stem or 'image'}-boxes", 1
        while True:
            path = self.folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
            if _key(path) not in self._taken:
                self._taken.add(_key(path))
                return path
            number += 1

    def write(self, path: Path, content: bytes) -> None:
        """Write a file wholly or not at all; one that is a link is replaced, never followed."""
        descriptor, temporary = tempfile.mkstemp(prefix=".predict-", dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), 0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def write_answer(self, predictions: Predictions) -> Path:
        path = self.folder / ANSWER
        self.write(path, (predictions.model_dump_json(indent=2) + "\n").encode())
        return path


def escaped(text: str) -> str:
    """`text` on one line: what a terminal would obey, or what has no shape, is written as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def read_image(path: Path) -> bytes:
    """The bytes of a file that was named. Raises `ConfigError` where it cannot be read."""
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise ConfigError("this is a folder", where=str(path), remedy=f"Name its images: {path}/*.jpg.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"the image cannot be read: {reason}", where=str(path), remedy="Check the path.") from error


def table_rows(predictions: Predictions, pictures: Sequence[Path | None]) -> list[tuple[str, str, str, str]]:
    """For each image: its name, how many objects, the surest of them, and its picture or what is wrong with it."""
    names = {category.id: category.name for category in predictions.categories}
    rows = []
    for image, picture in zip(predictions.images, pictures, strict=True):
        found = [result for result in predictions.results if result.image_id == image.id]
        best = f"{names[found[0].category_id]} {found[0].score:.2f}" if found else ""
        count = "" if image.fault else str(len(found))
        where = image.fault.detail if image.fault else str(picture or "")
        rows.append((image.file_name, count, best, where))
    return rows


def _key(path: Path) -> str:
    return str(path.resolve()).casefold()  # some file systems do not tell A from a


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
