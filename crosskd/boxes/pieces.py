"""Tables of (box, anchor) pairs, a piece at a time: the table of 500 boxes and all of RetinaNet's anchors has 10^8."""

from __future__ import annotations

PAIRS = 1 << 21  # of a piece; a handful of temporaries of this many numbers are alive at once


def pieces(count: int, each: int) -> list[slice]:
    """Slices of `count` rows with `each` pairs a row: at most `PAIRS` pairs (but a row at least), about equally many.

    No rows are one empty slice.
    """
    number = max(1, -(-count * each // PAIRS))
    length = max(1, -(-count // number))
    return [slice(start, min(start + length, count)) for start in range(0, max(1, count), length)]
