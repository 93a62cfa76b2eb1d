"""To which size an image is brought before the network sees it. Imports no torch."""

from __future__ import annotations

Size = tuple[int, int]  # height, width


def fitted(size: Size, short_edge: int, long_edge: int, *, keep_ratio: bool = True) -> Size:
    """The largest size of the same ratio whose short side is at most `short_edge` and its long one `long_edge`.

    Without the ratio a square: of `short_edge`, and of `long_edge` at most.
    """
    if not keep_ratio:
        return (min(short_edge, long_edge),) * 2
    height, width = size
    scale = min(long_edge / max(size), short_edge / min(size))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def padded(size: Size, multiple: int) -> Size:
    """`size` rounded up to a multiple."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width
