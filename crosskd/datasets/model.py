"""A data set as the reader of any format hands it over: classes, and splits of images with their boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from crosskd.spec.data.import_config import Format

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)  # in this order, wherever they are listed


@dataclass(slots=True)
class Box:
    """x, y of the upper left corner, width, height: pixels, or shares of the image's sides where it says `relative`."""

    label: int  # place in the list of classes, from 0
    x: float
    y: float
    w: float
    h: float
    id: str  # what the source calls it, for people
    area: float | None = None  # square pixels, of its segmentation; None: w * h
    crowd: bool = False
    ignore: bool = False


@dataclass(slots=True)
class SourceImage:
    """An image of a source. `width` and `height` are 0 where the source does not say them."""

    name: str  # relative to the root of the images
    file: str  # the annotation file, relative to the source's folder
    boxes: list[Box]
    width: int = 0
    height: int = 0
    id: int | None = None
    relative: bool = False
    sha256: str = ""  # of the file; empty until it was read
    phash: int | None = None  # 64 bits; None until it was read

    def named(self) -> str:
        """What a fault of this image is told by: its id where it has one."""
        return self.name if self.id is None else str(self.id)


@dataclass
class Source:
    """What a format's reader has found. `roots`: images may be links to files in these (real paths)."""

    format: Format
    root: Path  # of the images, a real path
    classes: list[str]
    splits: dict[str, list[SourceImage]]
    roots: list[Path] = field(default_factory=list)
    category_ids: list[int] | None = None  # of the classes; None: they are counted from 1

    def ordered(self) -> list[tuple[str, list[SourceImage]]]:
        """The splits in their order."""
        return [(name, self.splits[name]) for name in SPLITS if name in self.splits]
