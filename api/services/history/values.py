"""The value of a metric point as a row has it: a number, and of what kind it is, because SQLite knows no NaN."""

from __future__ import annotations

from wire.scalars import NON_FINITE, NonFinite


def as_stored(value: float | NonFinite) -> tuple[float | None, int]:
    """Value and kind: 0 for a finite number, and 1, 2, 3 for those of `NON_FINITE`, which have no value."""
    return (None, 1 + NON_FINITE.index(value)) if isinstance(value, str) else (value, 0)


def as_wire(value: float | None, kind: int) -> float | NonFinite:
    """The way back."""
    if kind:
        return NON_FINITE[kind - 1]
    assert value is not None
    return value


def non_finite(kinds: int) -> list[NonFinite]:
    """Those that occur, of a summary that has bit 0 for kind 1 and so on."""
    return [name for bit, name in enumerate(NON_FINITE) if kinds >> bit & 1]
