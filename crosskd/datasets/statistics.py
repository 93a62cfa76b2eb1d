"""What a data set looks like in numbers: histograms of images and boxes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence

from crosskd.datasets.model import Source
from crosskd.spec.quantiles import MEDIUM, SMALL, quantiles
from crosskd.spec.results.dataset_report import (
    CELLS,
    Bin,
    ImageSizes,
    ImportedClass,
    ImportedSplit,
    SizeCount,
)

COMMON = 20  # sizes that are listed
SIDES = (0, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024)  # pixels
AREAS = (0, SMALL, MEDIUM)
RATIOS = (0.0, 0.125, 0.25, 0.5, 0.8, 1.25, 2.0, 4.0, 8.0)
PER_IMAGE = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500)


def splits(source: Source) -> list[ImportedSplit]:
    """Each split in numbers."""
    return [
        ImportedSplit(
            name=name,
            images=len(images),
            boxes=sum(len(image.boxes) for image in images),
            empty=sum(not image.boxes for image in images),
        )
        for name, images in source.ordered()
    ]


def classes(source: Source, ids: Sequence[int]) -> list[ImportedClass]:
    """Each class and its boxes; `ids` are their category ids."""
    counted = {
        split: Counter(box.label for image in images for box in image.boxes) for split, images in source.ordered()
    }
    return [
        ImportedClass(id=id_, name=name, boxes={split: counts[label] for split, counts in counted.items()})
        for label, (id_, name) in enumerate(zip(ids, source.classes, strict=True))
    ]


def image_sizes(source: Source) -> ImageSizes:
    """Of at least one image."""
    sizes = Counter((image.width, image.height) for _, images in source.ordered() for image in images)
    every = list(sizes.elements())
    common = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:COMMON]
    return ImageSizes(
        short=quantiles([min(size) for size in every]),
        long=quantiles([max(size) for size in every]),
        common=[SizeCount(width=width, height=height, images=count) for (width, height), count in common],
    )


def box_statistics(source: Source) -> tuple[list[Bin], list[Bin], list[Bin], list[list[int]]]:
    """Histograms of sides, areas and aspect ratios, and the heat map of centres."""
    centres = [[0] * CELLS for _ in range(CELLS)]
    areas: list[float] = []
    ratios: list[float] = []
    for _, images in source.ordered():
        for image in images:
            for box in image.boxes:
                areas.append(box.w * box.h)
                ratios.append(box.h / box.w)
                row = min(int((box.y + box.h / 2) / image.height * CELLS), CELLS - 1)
                column = min(int((box.x + box.w / 2) / image.width * CELLS), CELLS - 1)
                centres[row][column] += 1
    return histogram(map(math.sqrt, areas), SIDES), histogram(areas, AREAS), histogram(ratios, RATIOS), centres


def boxes_per_image(source: Source) -> list[Bin]:
    """Images by their number of boxes."""
    return histogram((len(image.boxes) for _, images in source.ordered() for image in images), PER_IMAGE)


def histogram(values: Iterable[float], lows: Sequence[float]) -> list[Bin]:
    """Values by the bars that begin at `lows`, ascending; none is below the first."""
    counts = Counter(bisect_right(lows, value) - 1 for value in values)
    highs = [*lows[1:], None]
    return [
        Bin(low=low, high=high, count=counts[place]) for place, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]
