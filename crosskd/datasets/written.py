"""Reads what an import has written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from crosskd.datasets.model import SPLITS
from crosskd.errors import DataError
from crosskd.spec.results.dataset_report import DatasetReport

REPORT = "report.json"
_REMEDY = "Name a folder that `crosskd import` has written."
Model = TypeVar("Model", bound=BaseModel)


class WrittenImage(BaseModel):
    """An entry of an image."""

    id: int
    file_name: str
    width: int
    height: int
    sha256: str


class WrittenBox(BaseModel):
    """An entry of a box: x, y, width, height in pixels."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    ignore: int = 0


class WrittenCategory(BaseModel):
    """An entry of a class."""

    id: int
    name: str


class WrittenSplit(BaseModel):
    """A file of a split."""

    images: list[WrittenImage]
    annotations: list[WrittenBox]
    categories: list[WrittenCategory]


def read_report(folder: Path) -> DatasetReport:
    """Raises: `DataError` for a folder that no import has written."""
    return _read(folder / REPORT, DatasetReport)


def read_splits(folder: Path) -> Iterator[tuple[str, WrittenSplit]]:
    """The splits that are there, by name. Raises: `DataError` for a file that no import has written."""
    for split in SPLITS:
        path = folder / f"{split}.json"
        if path.is_file():
            yield split, _read(path, WrittenSplit)


def _read(path: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", remedy=_REMEDY) from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise DataError(f"{path} is not what an import writes: {place} {fault['msg']}", remedy=_REMEDY) from None
