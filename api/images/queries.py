"""Pages of images out of an index on disk (`api/images/index.py`), in milliseconds and without numpy."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wire.images import BoxKind, Order

if TYPE_CHECKING:  # numpy is for the process that makes the index
    from api.images.index import Facts

VERSION = 1  # of the tables; an older index is not used
ALL = -1  # the label of all classes together
KINDS: tuple[BoxKind, ...] = ("true", "false", "missed", "ignored")  # as an index counts them
_MODELS = {"student": "c.tp, c.fp, c.fn", "teacher": "c.teacher_tp, c.teacher_fp, c.teacher_fn"}
_SORT = {"f1_loss": "-COALESCE(c.loss, 0.0)", "gain": "COALESCE(o.f1, 1.0) - COALESCE(c.f1, 1.0)", "id": "w.image"}


class NoSuchImage(Exception):
    """It is none of those that were asked for."""


class ImageFile(NamedTuple):
    """What the annotation file says of an image."""

    name: str
    width: int
    height: int


class Row(NamedTuple):
    """An image of a page; boxes as the index has them."""

    id: int
    file: ImageFile
    loss: float
    gain: float | None
    boxes: dict[str, list[list[Any]]]
    against: list[list[Any]] | None


class Sums(NamedTuple):
    """Over all images of a list; of each model true, false, missed."""

    images: int
    models: dict[str, tuple[int, int, int]]


class Index:
    """An open index, and perhaps that of the job it is held against."""

    def __init__(self, connection: sqlite3.Connection, *, against: bool) -> None:
        self._connection = connection
        self._against = against
        self.facts: Facts = self._facts("main")
        self.other: Facts | None = self._facts("other") if against else None

    def _facts(self, schema: str) -> Facts:
        (text,) = self._connection.execute(f"SELECT value FROM {schema}.facts").fetchone()  # noqa: S608
        facts: Facts = json.loads(text)
        return facts

    def image(self, image: int) -> ImageFile:
        """Raises `NoSuchImage`."""
        row = self._connection.execute("SELECT name, width, height FROM images WHERE id = ?", (image,)).fetchone()
        if row is None:
            raise NoSuchImage
        return ImageFile(*row)

    def sums(self, label: int) -> Sums:
        """Over the images that have anything of the class `label`, or over all."""
        columns = [*_MODELS.values(), *(["o.tp, o.fp, o.fn"] if self._against else [])]
        parts = ", ".join(f"SUM({column})" for columns_ in columns for column in columns_.split(", "))
        count, *values = self._query(f"COUNT(*), {parts}", label).fetchone()
        names = [*_MODELS, *(["against"] if self._against else [])]
        return Sums(
            count,
            {name: _three(values[3 * place : 3 * place + 3]) for place, name in enumerate(names)},
        )

    def rows(self, label: int, order: Order, after: int | None, limit: int) -> list[Row]:
        """Up to `limit` images behind the image `after`. Raises `NoSuchImage` where that is none of them."""
        sort, where, values = _SORT[order], "", {}
        if after is not None:
            found = self._query(sort, label, " AND w.image = :after", {"after": after}).fetchone()
            if found is None:
                raise NoSuchImage
            where = f" AND ({sort} > :value OR ({sort} = :value AND w.image > :after))"
            values = {"value": found[0], "after": after}
        other = "COALESCE(c.f1, 1.0) - COALESCE(o.f1, 1.0), b.boxes" if self._against else "NULL, NULL"
        columns = f"w.image, i.name, i.width, i.height, COALESCE(c.loss, 0.0), i.boxes, {other}"
        found_rows = self._query(columns, label, f"{where} ORDER BY {sort}, w.image LIMIT {limit:d}", values)
        return [
            Row(
                image,
                ImageFile(name, width, height),
                loss,
                gain,
                json.loads(boxes),
                None if theirs is None else json.loads(theirs)["student"],
            )
            for image, name, width, height, loss, boxes, gain, theirs in found_rows
        ]

    def _query(self, columns: str, label: int, rest: str = "", values: dict[str, Any] | None = None) -> sqlite3.Cursor:
        """Of the images that have anything of the class; with another job, that both have measured."""
        wanted, joined = "SELECT image FROM main.counts WHERE label = :label", ""
        if self._against:
            wanted += " UNION SELECT image FROM other.counts WHERE label = :label"
            joined = (
                " LEFT JOIN other.counts o ON o.label = :label AND o.image = w.image"
                " JOIN other.images b ON b.id = w.image AND b.boxes IS NOT NULL"
            )
        text = (
            f"SELECT {columns} FROM ({wanted}) w"  # noqa: S608 - of this module's own parts
            " JOIN main.images i ON i.id = w.image AND i.boxes IS NOT NULL"
            f" LEFT JOIN main.counts c ON c.label = :label AND c.image = w.image{joined} WHERE 1{rest}"
        )
        return self._connection.execute(text, {"label": label, **(values or {})})


def _three(values: list[int | None]) -> tuple[int, int, int]:
    true, false, missed = (value or 0 for value in values)
    return true, false, missed


@contextmanager
def opened(path: Path, against: Path | None = None) -> Iterator[Index]:
    """The index at `path`; nothing can write to it."""
    connection = sqlite3.connect(_address(path), uri=True, check_same_thread=False)
    try:
        if against is not None:
            connection.execute("ATTACH DATABASE ? AS other", (_address(against),))
        yield Index(connection, against=against is not None)
    finally:
        connection.close()


def _address(path: Path) -> str:
    return f"{path.resolve().as_uri()}?mode=ro&immutable=1"
