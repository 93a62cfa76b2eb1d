"""Sample images of a report: one picture each, and what the models made of it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from wire.images import ModelBox

MOST = 4  # images
SIDE = 320  # pixels of the longer side of a picture
MOST_BYTES = 400_000  # of all pictures of a report, as text


@dataclass(frozen=True)
class Stage:
    """What one model made of an image, from its score on."""

    title: str
    score: float | None
    boxes: Sequence[ModelBox]


@dataclass(frozen=True)
class Sample:
    """An image of `width` x `height` pixels, which boxes are in; `picture` is a JPEG of it, of any size."""

    file_name: str
    width: int
    height: int
    picture: bytes
    stages: Sequence[Stage]

    @property
    def address(self) -> str:
        """The picture as an address that needs no network."""
        return _address(self.picture)


@dataclass(frozen=True)
class DatasetPicture:
    """An image of a data set, `width` x `height` pixels; its boxes as label, x, y, width, height in these."""

    split: str
    file_name: str
    width: int
    height: int
    jpeg: bytes
    boxes: Sequence[tuple[int, float, float, float, float]]

    @property
    def address(self) -> str:
        """The picture as an address that needs no network."""
        return _address(self.jpeg)


def _address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def fitting(samples: Sequence[Sample]) -> list[Sample]:
    """As many of the first as a report has room for."""
    kept: list[Sample] = []
    room = MOST_BYTES
    for sample in samples[:MOST]:
        room -= len(sample.address)
        if room < 0:
            break
        kept.append(sample)
    return kept
