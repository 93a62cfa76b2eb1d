"""Reads single values out of parsed JSON, noting what is wrong with them instead of stopping at the first fault."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from crosskd.errors import DataError

LISTED = 20  # faults that a message spells out; the rest is counted
LARGEST_SIDE = 1_000_000  # pixels: beyond it a width is a typing error, and would overflow what is computed from it


class Findings:
    """Faults (or other remarks) about a file: all are counted, the first are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(text)

    def __str__(self) -> str:
        more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return "; ".join(self.first) + more

    def raise_for(self, path: Path) -> None:
        """Raises DataError if there is any."""
        if self.count:
            faults = "1 fault" if self.count == 1 else f"{self.count} faults"
            raise DataError(f"{path.name} has {faults}: {self}", where=str(path), remedy="Mend the annotation file.")


def kind(value: Any) -> str:
    """What JSON calls it."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def integer(entry: dict[str, Any], key: str, where: str, faults: Findings) -> int | None:
    value = entry.get(key)
    if key not in entry:
        faults.add(f"{where} has no `{key}`")
    elif isinstance(value, bool) or not isinstance(value, int):
        faults.add(f"{where}.{key} is {kind(value)}, not an integer")
    elif not -(2**63) <= value < 2**63:
        faults.add(f"{where}.{key} does not fit 64 bits")
    else:
        return value
    return None


def text(entry: dict[str, Any], key: str, where: str, faults: Findings) -> str | None:
    value = entry.get(key)
    if key not in entry:
        faults.add(f"{where} has no `{key}`")
    elif not isinstance(value, str):
        faults.add(f"{where}.{key} is {kind(value)}, not a string")
    elif not value:
        faults.add(f"{where}.{key} is empty")
    elif "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        faults.add(f"{where}.{key} {value!r:.60} is not text: it has a zero byte or half a surrogate pair")
    else:
        return value
    return None


def number(value: Any, where: str, faults: Findings) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        faults.add(f"{where} is {kind(value)}, not a number")
        return None
    number = float(value) if abs(value) < 2**63 or isinstance(value, float) else math.inf
    if not math.isfinite(number):
        faults.add(f"{where} is {'NaN' if math.isnan(number) else 'infinite'}")
        return None
    return number


def side(entry: dict[str, Any], key: str, where: str, faults: Findings) -> int | None:
    """A width or a height."""
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():  # some exporters write 640.0
        entry = {**entry, key: int(value)}
    side = integer(entry, key, where, faults)
    if side is not None and not 0 < side <= LARGEST_SIDE:
        faults.add(f"{where}.{key} is {side}; it must be 1 to {LARGEST_SIDE}")
        return None
    return side


def flag(entry: dict[str, Any], key: str, where: str, faults: Findings) -> bool:
    value = entry.get(key, 0)
    if value is None or value in (0, 1):  # True and False are 1 and 0
        return bool(value)
    faults.add(f"{where}.{key} must be 0 or 1, not {value!r:.40}")
    return False


def box(entry: dict[str, Any], where: str, faults: Findings) -> tuple[float, float, float, float] | None:
    """x, y, width, height."""
    box = entry.get("bbox")
    if "bbox" not in entry:
        faults.add(f"{where} has no `bbox`")
        return None
    if not isinstance(box, list) or len(box) != 4:
        faults.add(f"{where}.bbox must be [x, y, width, height], not {box!r:.60}")
        return None
    numbers = [number(value, f"{where}.bbox[{i}]", faults) for i, value in enumerate(box)]
    x, y, w, h = numbers
    if x is None or y is None or w is None or h is None:
        return None
    if w < 0 or h < 0:
        faults.add(f"{where}.bbox has a negative size ({w:g} x {h:g})")
        return None
    return x, y, w, h
