"""Decoded images kept in memory, up to a limit in bytes."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

Stored = tuple[bytes, tuple[int, int]]  # pixels; width, height


class ImageCache:
    """The first RGB images that fit, for good.

    An epoch reads every image once, in random order. A cache that made room for new images would have thrown most of
    them out by the time they come again; one that is full and stays as it is keeps its share of hits.

    A copy in another process starts empty and fills its own `limit`.
    """

    def __init__(self, limit: int) -> None:
        """`limit` in bytes of pixels, 3 a pixel; an image that does not fit is not kept."""
        self.limit = limit
        self.bytes = 0
        self._images: dict[int, Stored] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __reduce__(self) -> tuple[type[ImageCache], tuple[int]]:
        return ImageCache, (self.limit,)

    def get(self, key: int, read: Callable[[], Image.Image]) -> Image.Image:
        """The image kept as `key`, as a copy, or what `read` brings. What `read` raises is not kept."""
        if key in self._images:
            pixels, size = self._images[key]
            return Image.frombytes("RGB", size, pixels)
        image = read()
        needed = 3 * image.width * image.height
        if self.bytes + needed <= self.limit:
            self._images[key] = (image.tobytes(), image.size)
            self.bytes += needed
        return image
