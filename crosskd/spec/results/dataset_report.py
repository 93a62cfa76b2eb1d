"""What an import found in a data set, and what it did: the form of `report.json`. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from crosskd.spec.data.import_config import Format, SplitConfig
from crosskd.spec.quantiles import Quantiles

VERSION = 1
FIRST = 100  # faults, duplicates and leaks of each kind that are named; the rest is counted
CELLS = 16  # rows and columns of the heat map of centres
Done = Literal["dropped", "clipped", "kept"]


class ImportedSplit(BaseModel):
    """A split as it was written."""

    name: str = Field(description="train, val or test.")
    images: int = Field(ge=0, description="Images that it has.")
    boxes: int = Field(ge=0, description="Boxes that it has, crowds and ignored ones among them.")
    empty: int = Field(ge=0, description="Images without a box.")


class ImportedClass(BaseModel):
    """A class, in label order."""

    id: int = Field(ge=0, description="Its category id in the files that were written.")
    name: str = Field(description="What it is called.")
    boxes: dict[str, int] = Field(description="Boxes of it in each split.")


class Bin(BaseModel):
    """A bar of a histogram: values from `low` on and below `high`."""

    low: float = Field(ge=0, description="The least value that falls into it.")
    high: float | None = Field(ge=0, description="The least value above it; null: there is none.")
    count: int = Field(ge=0, description="Values that fall into it.")


class SizeCount(BaseModel):
    """Images of one size."""

    width: int = Field(ge=0, description="Pixels from left to right.")
    height: int = Field(ge=0, description="Pixels from top to bottom.")
    images: int = Field(ge=0, description="Images of this size.")


class ImageSizes(BaseModel):
    """The sizes of all images, in pixels."""

    short: Quantiles = Field(description="The shorter sides.")
    long: Quantiles = Field(description="The longer sides.")
    common: list[SizeCount] = Field(description="The commonest sizes, at most 20.")


class FaultExample(BaseModel):
    """One place where something is wrong."""

    file: str = Field(description="The file, relative to the data set's folder.")
    id: str = Field(description="What in it: the id of an image or annotation, a line, an object; empty: all of it.")
    why: str = Field(description="What is wrong.")


class FaultCount(BaseModel):
    """All faults of one kind."""

    kind: str = Field(description="A short name of the kind.")
    count: int = Field(ge=0, description="How many there are.")
    done: Done = Field(description="What was done: left out, cut to the image, or kept as it is.")
    remedy: str = Field(description="What to do about it.")
    first: list[FaultExample] = Field(description="The first 100 of them.")


class ImageName(BaseModel):
    """An image of a split."""

    split: str = Field(description="The split that it is in.")
    file_name: str = Field(description="Its name, relative to the folder of the images.")


class SameImages(BaseModel):
    """Images of which each is byte for byte the same."""

    sha256: str = Field(description="Of the file, in hex.")
    images: list[ImageName] = Field(description="The first 100 of them.")


class NearImages(BaseModel):
    """Two images that nearly show the same."""

    distance: int = Field(ge=0, description="Bits, of 64, in which their perceptual hashes differ.")
    images: list[ImageName] = Field(description="The two of them.")


class Duplicates(BaseModel):
    """Images that are there more than once. All are kept."""

    exact: int = Field(ge=0, description="Images that are byte for byte like another one that comes before it.")
    exact_first: list[SameImages] = Field(description="The first 100 groups of these.")
    near: int | None = Field(
        ge=0,
        description="Images that nearly show what another one shows, exact duplicates apart; null: not looked for.",
    )
    near_first: list[NearImages] = Field(description="The first 100 pairs of these.")
    leaks: int = Field(
        ge=0,
        description="Validation and test images that are byte for byte in training: AP on them says nothing of new "
        "ones.",
    )
    leaks_first: list[SameImages] = Field(description="The first 100 groups of these.")
    near_leaks: int | None = Field(
        ge=0,
        description="Validation and test images that nearly show what a training image shows; null: not looked for.",
    )
    near_leaks_first: list[NearImages] = Field(description="The first 100 pairs of these, the training image first.")


class DatasetReport(BaseModel):
    """What an import found, and what it did. The same input gives the same bytes."""

    version: int = Field(default=VERSION, ge=1, description="Version of this form.")
    digest: str = Field(
        description="sha256 in hex of the canonical content: classes, images, boxes, and the bytes of all images. The "
        "same wherever the data set lies."
    )
    source: str = Field(description="What was imported.")
    format: Format = Field(description="How its boxes were written.")
    images: str = Field(description="The folder that `file_name` is relative to.")
    split: SplitConfig | None = Field(description="How images were divided; null: as the source divides them.")
    splits: list[ImportedSplit] = Field(description="The splits that were written.")
    classes: list[ImportedClass] = Field(description="The classes in label order.")
    image_sizes: ImageSizes = Field(description="The sizes of all images.")
    box_sides: list[Bin] = Field(description="Boxes by the root of their area, in pixels.")
    box_areas: list[Bin] = Field(description="Boxes by their area, in square pixels: COCO's small, medium and large.")
    aspect_ratios: list[Bin] = Field(description="Boxes by height over width.")
    boxes_per_image: list[Bin] = Field(description="Images by their number of boxes.")
    centres: list[list[int]] = Field(
        description="Centres of boxes in 16 x 16 cells of their image, rows from top to bottom."
    )
    faults: list[FaultCount] = Field(description="What is wrong, by kind.")
    duplicates: Duplicates = Field(description="Images that are there more than once, and in which splits.")
