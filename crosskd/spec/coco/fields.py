"""Reads single values out of an entry of a COCO file, noting what is wrong instead of stopping at the first fault."""

from __future__ import annotations

import json
import math
from pathlib import PurePosixPath
from typing import Any, Literal, TypedDict

MAX_FAULTS = 20  # that are spelt out; the rest is counted
MAX_SIDE = 1_000_000  # pixels: beyond it a width is a typing error, and would overflow what is computed from it
MAX_NAME = 200  # characters, as TrainConfig bounds class names
REMEDY = "Correct that place in the JSON, or export the annotations anew."
Entry = dict[str, Any]
# entry: of any other kind; name: a file name that leads out of the folder; reference: to an id that is not there
FaultKind = Literal["entry", "box", "name", "size", "duplicate_id", "reference", "same_name", "file"]


class CocoFault(TypedDict):
    """`where` is a position in the file, such as `annotations[17].bbox`; empty: the file as a whole."""

    where: str
    detail: str
    remedy: str


class Faults:
    """What is wrong with a file: all is counted, the first faults are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[CocoFault] = []

    def add(self, where: str, detail: str, remedy: str = REMEDY, *, kind: FaultKind = "entry") -> None:  # noqa: ARG002
        """`kind` is for those who count by kinds: an import of a data set."""
        self.count += 1
        if len(self.first) < MAX_FAULTS:
            self.first.append(CocoFault(where=where, detail=detail, remedy=remedy))


def identifier(entry: Entry, key: str, where: str, faults: Faults) -> int | None:
    """An id. `1.0` is 1: several exporters write all numbers so."""
    value = entry.get(key)
    if type(value) is int and -(2**63) <= value < 2**63:  # not a bool
        return value
    if type(value) is float and value.is_integer() and abs(value) <= 2**53:  # beyond it a float skips integers
        return int(value)
    faults.add(f"{where}.{key}", wrong(entry, key, "a 64-bit whole number"))
    return None


def text(entry: Entry, key: str, where: str, faults: Faults) -> str | None:
    value = entry.get(key)
    if isinstance(value, str) and value and "\0" not in value and encodes(value):
        return value
    faults.add(f"{where}.{key}", wrong(entry, key, "text of at least one character"))
    return None


def side(entry: Entry, key: str, where: str, faults: Faults) -> int | None:
    """A width or a height in pixels."""
    value = entry.get(key)
    whole = type(value) is int or (type(value) is float and value.is_integer())  # some exporters write 640.0
    if whole and 0 < value <= MAX_SIDE:  # type: ignore[operator]
        return int(value)  # type: ignore[arg-type]
    faults.add(f"{where}.{key}", wrong(entry, key, f"a whole number of pixels, 1 to {MAX_SIDE}"), kind="size")
    return None


def box(entry: Entry, where: str, faults: Faults) -> list[float] | None:
    """x, y, width, height."""
    value = entry.get("bbox")
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        faults.add(f"{where}.bbox", wrong(entry, "bbox", "four finite numbers: x, y, width, height"), kind="box")
        return None
    if value[2] < 0 or value[3] < 0:
        detail = f"has a negative width or height: {short(value)}"
        remedy = "Give x and y of the upper left corner, and the width and height from there, as numbers from 0."
        faults.add(f"{where}.bbox", detail, remedy, kind="box")
        return None
    return [float(number) for number in value]


def area(entry: Entry, where: str, faults: Faults) -> float | None:
    value = entry.get("area")
    if value is None:
        return None
    if _is_number(value) and value >= 0:
        return float(value)
    faults.add(f"{where}.area", wrong(entry, "area", "a number from 0"))
    return None


def flag(entry: Entry, key: str, where: str, faults: Faults) -> bool:
    value = entry.get(key)
    if value in (None, 0, 1):  # True and False are 1 and 0
        return bool(value)
    faults.add(f"{where}.{key}", wrong(entry, key, "0 or 1"))
    return False


def unsafe_name(name: str) -> str:
    """Why a file name could leave the image folder; empty if it cannot, links aside."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return "must be relative to the images folder and stay in it"
    return ""


def wrong(entry: Entry, key: str, expected: str) -> str:
    return f"must be {expected}, not {short(entry[key])}" if key in entry else f"is missing: {expected}"


def short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_number(value: Any) -> bool:
    """A finite number, and no boolean."""
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is int and abs(value) < 2**63


def encodes(text: str) -> bool:
    """JSON can spell half a surrogate pair, which no file name and no database can."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
