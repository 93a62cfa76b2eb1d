"""Sample images of an imported data set, with their boxes, for its page."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from crosskd.data.images import ImageFolder
from crosskd.datasets.images import MAX_PIXELS
from crosskd.datasets.written import WrittenBox, WrittenSplit, read_splits
from crosskd.errors import DataError
from crosskd.spec.results.dataset_report import DatasetReport

SIDE = 480  # pixels of the longer side of a picture
QUALITY = 80  # of a JPEG


@dataclass(frozen=True)
class Picture:
    """An image of `width` x `height` pixels, small as a JPEG; boxes as label, x, y, width, height in its own pixels."""

    split: str
    file_name: str
    width: int
    height: int
    jpeg: bytes
    boxes: list[tuple[int, float, float, float, float]]


def sample_pictures(folder: Path, report: DatasetReport, count: int, roots: Sequence[Path] = ()) -> list[Picture]:
    """`count` images of each split, evenly spread over their names; those that cannot be read any more are left out.

    Raises: `DataError` where the folder is not what an import writes, or the images' folder is gone.
    """
    images = ImageFolder(report.images, MAX_PIXELS, roots=roots)
    labels = {entry.id: label for label, entry in enumerate(report.classes)}
    return [
        picture
        for split, content in read_splits(folder)
        for picture in _of_split(split, content, images, labels, count)
    ]


def _of_split(
    split: str, content: WrittenSplit, images: ImageFolder, labels: dict[int, int], count: int
) -> Iterator[Picture]:
    boxes: defaultdict[int, list[WrittenBox]] = defaultdict(list)
    for box in content.annotations:
        boxes[box.image_id].append(box)
    for place in spread_places(len(content.images), count):
        entry = content.images[place]
        try:
            picture = images.read(entry.file_name, (entry.height, entry.width))
        except DataError:
            continue
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        found = [(labels.get(box.category_id, 0), *box.bbox) for box in boxes[entry.id]]
        yield Picture(split, entry.file_name, entry.width, entry.height, file.getvalue(), found)


def spread_places(length: int, count: int) -> list[int]:
    """Up to `count` of 0 .. length - 1, evenly spread, the first and the last among them."""
    if length <= count:
        return list(range(length))
    return [round(at * (length - 1) / max(count - 1, 1)) for at in range(count)]
