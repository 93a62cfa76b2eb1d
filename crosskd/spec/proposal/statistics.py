"""What a training split looks like in numbers: images, boxes, classes. Imports no torch."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass

from pydantic import BaseModel, Field

from crosskd.spec.coco.instances import Instances
from crosskd.spec.coco.survey import Survey
from crosskd.spec.quantiles import HIGH, MEDIUM, SMALL, Quantiles, quantile, quantiles

WIDEST = 4.0  # long side over short; a panorama beyond it is made smaller than the others
LISTED = 3  # classes that the text names


class Statistics(BaseModel):
    """Of the training split, as a training reads it, where no other is named. Sides are in pixels, as stored."""

    images: int = Field(description="Images that are trained on.")
    boxes: int = Field(description="Boxes that are trained on.")
    val_images: int = Field(description="Images that are evaluated.")
    classes: dict[str, int] = Field(description="Boxes of each class that is learnt, in label order.")
    short: Quantiles = Field(description="The shorter sides of images.")
    long: Quantiles = Field(description="The longer sides of images.")
    side: Quantiles = Field(description="Roots of the areas of boxes.")
    aspect: Quantiles = Field(description="Height over width of boxes.")
    per_image: Quantiles = Field(description="Boxes of an image.")
    small: float = Field(description="Share of boxes below 32 x 32 pixels.")
    medium: float = Field(description="Share of boxes from there to 96 x 96 pixels.")
    crowds: int = Field(description="Boxes that are crowds or ignored.")
    most_pixels: int = Field(description="Pixels of the largest image of both splits.")

    def lines(self) -> list[str]:
        """For a person."""
        rare = sorted(self.classes.items(), key=lambda item: item[1])
        named = [f"{name!r:.60} {count}" for name, count in (rare[::-1] if len(rare) <= LISTED else rare[-1:])]
        classes = ", ".join(named) + (
            f" (most) … {rare[0][0]!r:.60} {rare[0][1]} (least)" if len(rare) > LISTED else ""
        )
        large = 1 - self.small - self.medium
        return [
            f"images: {self.images:,} to train on, {self.val_images:,} to validate; {_pixels(self.short, self.long)}",
            f"boxes: {self.boxes:,}; an image has {self.per_image.middle:g} (median), at most {self.per_image.most:g}"
            + (f"; {self.crowds:,} crowds train nothing" if self.crowds else ""),
            f"classes: {len(self.classes):,}: {classes}",
            f"sides of boxes (root of the area): {self.side.low:.3g} to {self.side.high:.3g} px, median "
            f"{self.side.middle:.3g}; small {self.small:.0%}, medium {self.medium:.0%}, large {abs(large):.0%}",
            f"height over width: {self.aspect.low:.2g} to {self.aspect.high:.2g}, median {self.aspect.middle:.2g}",
        ]


@dataclass(frozen=True)
class Shapes:
    """The sides of all images, and of each box that trains its own side and the place of its image."""

    sides: list[tuple[int, int]]  # shorter, longer
    boxes: array[float]  # root of the area
    places: array[int]

    @property
    def ratio(self) -> float:
        """Long side over short, at most `WIDEST`, that 95 in 100 images do not pass."""
        return min(quantile(sorted(long / short for short, long in self.sides), HIGH), WIDEST)

    def effective(self) -> list[float]:
        """Sorted: the shorter sides of images; of one wider than `ratio` what it comes to when both edges bound it."""
        ratio = self.ratio
        return sorted(max(short, long / ratio) for short, long in self.sides)

    def relative(self) -> list[float]:
        """Sorted: the sides of boxes as shares of the effective side of their image."""
        ratio = self.ratio
        shares = [1 / max(short, long / ratio) for short, long in self.sides]
        return sorted(box * shares[place] for box, place in zip(self.boxes, self.places, strict=True))


def shapes(found: Instances, taken: Survey) -> Shapes:
    """What sizes are chosen by: of the images that are read, and of the boxes that train."""
    index = {place: number for number, place in enumerate(taken.images)}
    sides = [_short_long(found, place) for place in taken.images]
    boxes, places = array("d"), array("q")
    for (x1, y1, x2, y2), place in trained(taken):
        if place in index:
            boxes.append(math.sqrt((x2 - x1) * (y2 - y1)))
            places.append(index[place])
    return Shapes(sides, boxes, places)


def statistics(found: Instances, taken: Survey, val: Instances, evaluated: Survey) -> Statistics:
    """Of a training split with at least one box that trains, and of what is evaluated."""
    sides = [_short_long(found, place) for place in taken.images]
    boxes = [box for box, _ in trained(taken)]
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    held = Counter(place for _, place in trained(taken))
    labels = Counter(label for label, trains in zip(taken.whole[1::5], taken.whole[4::5], strict=True) if trains)
    return Statistics(
        images=len(sides),
        boxes=len(boxes),
        val_images=len(evaluated.images),
        classes={name: labels[label] for label, name in enumerate(taken.classes)},
        short=quantiles([short for short, _ in sides]),
        long=quantiles([long for _, long in sides]),
        side=quantiles([math.sqrt(area) for area in areas]),
        aspect=quantiles([(y2 - y1) / (x2 - x1) for x1, y1, x2, y2 in boxes]),
        per_image=quantiles([held[place] for place in taken.images]),
        small=sum(area < SMALL for area in areas) / len(areas),
        medium=sum(SMALL <= area < MEDIUM for area in areas) / len(areas),
        crowds=sum(crowd or ignore for crowd, ignore in zip(taken.whole[2::5], taken.whole[3::5], strict=True)),
        most_pixels=max(
            short * long for short, long in [*sides, *(_short_long(val, place) for place in evaluated.images)]
        ),
    )


def trained(taken: Survey) -> list[tuple[tuple[float, float, float, float], int]]:
    """Each box that trains, x1, y1, x2, y2, and the place of its image."""
    flat = taken.flat
    return [
        ((flat[5 * row], flat[5 * row + 1], flat[5 * row + 2], flat[5 * row + 3]), taken.whole[5 * row])
        for row, trains in enumerate(taken.whole[4::5])
        if trains
    ]


def _short_long(found: Instances, place: int) -> tuple[int, int]:
    height, width = found.sizes[2 * place], found.sizes[2 * place + 1]
    return min(height, width), max(height, width)


def _pixels(short: Quantiles, long: Quantiles) -> str:
    if short.least == short.most and long.least == long.most:
        return f"all {long.most:g} x {short.most:g} pixels"
    return f"{long.least:g} x {short.least:g} to {long.most:g} x {short.most:g} pixels"
