"""Reads a data set in YOLO's form: a text file of boxes for each image.

The lines are parsed here, and not by a library: `labelformat` reads box lines alone, without lists of images, several
folders or polygons, and what it leaves out it only logs. The tests hold this reader against its writer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.formats.listing import files_below
from crosskd.datasets.formats.opening import Sources, is_there
from crosskd.datasets.formats.yolo_layout import Layout, label_places, read_layout
from crosskd.datasets.model import Box, Source, SourceImage
from crosskd.errors import DataError
from crosskd.spec.section import MAX_CLASSES

MOST_BYTES = 16 << 20  # of a label file
FARTHEST = 2.0  # shares of a side: what lies beyond can only be pixels
NOT_LABELS = frozenset({"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt"})


def read_yolo(sources: Sources, faults: DatasetFaults) -> Source:
    """Raises: `ConfigError`, `DataError` where there is no such data set, or data.yaml cannot be used."""
    layout = read_layout(sources, faults)
    reader = _Reader(sources, layout, faults)
    splits = {name: reader.images(paths) for name, paths in layout.splits.items()}
    reader.orphans()
    return Source("yolo", layout.root, reader.classes(), splits, sources.allowed())


class _Reader:
    """Reads the labels of images, and remembers which files were theirs."""

    def __init__(self, sources: Sources, layout: Layout, faults: DatasetFaults) -> None:
        self._sources, self._layout, self._faults = sources, layout, faults
        self._used: set[Path] = set()
        self._labels = None if layout.names is None else {key: at for at, key in enumerate(layout.names)}
        self._highest = 0  # class number, where no names are given

    def images(self, paths: Sequence[Path]) -> list[SourceImage]:
        read = (self._image(path) for path in paths)
        return [image for image in read if image is not None]

    def classes(self) -> list[str]:
        names = self._layout.names
        return [f"class_{number}" for number in range(self._highest + 1)] if names is None else list(names.values())

    def orphans(self) -> None:
        """Label files without an image, in the folders in which labels were found."""
        for folder in sorted({path.parent for path in self._used}):
            for path in files_below(self._sources, folder, {".txt"}):
                if path.parent == folder and path not in self._used and path.name not in NOT_LABELS:
                    self._faults.add("label_without_image", self._sources.name(path), "", "it has no image")

    def _image(self, path: Path) -> SourceImage | None:
        """None: its label file cannot be read, and so nobody knows what it shows."""
        name = path.relative_to(self._layout.root).as_posix()
        label = next((place for place in label_places(path) if is_there(place, file=True)), None)
        if label is None:
            if is_there(path, file=True):  # else it is missing, which is told of the image
                self._faults.add("image_without_label", name, "", "it has no label file")
            return SourceImage(name, "", [], relative=True)
        self._used.add(label)
        file = self._sources.name(label)
        try:
            text = self._sources.read(label, MOST_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError:
            self._faults.add("not_utf8", file, "", f"{name} is left out")
            return None
        except DataError as error:
            self._faults.add("unreadable_label", file, "", f"{error.message}; {name} is left out")
            return None
        boxes = (self._box(line, file, f"line {at}") for at, line in enumerate(text.splitlines(), 1) if line.strip())
        return SourceImage(name, file, [box for box in boxes if box is not None], relative=True)

    def _box(self, line: str, file: str, where: str) -> Box | None:
        words = line.split()
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            self._faults.add("not_a_number", file, where, line)
            return None
        if not all(map(math.isfinite, numbers)):
            self._faults.add("not_a_number", file, where, line)
            return None
        keypoints = self._layout.keypoints
        polygon = len(words) >= 7 and len(words) % 2 == 1 and not keypoints
        if len(words) != 5 and not polygon and not (keypoints and len(words) == 5 + keypoints):
            self._faults.add("unknown_line", file, where, line)
            return None
        label = self._label(numbers[0])
        if label is None:
            self._faults.add("unknown_class", file, where, f"class {words[0]}")
            return None
        if max(map(abs, numbers[1 : None if polygon else 5])) > FARTHEST:
            self._faults.add("not_relative", file, where, line)
            return None
        if polygon:
            self._faults.add("polygon", file, where, f"of {len(words) // 2} points")
            xs, ys = numbers[1::2], numbers[2::2]
            return Box(label, min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys), where)
        x, y, w, h = numbers[1:5]
        return Box(label, x - w / 2, y - h / 2, w, h, where)

    def _label(self, number: float) -> int | None:
        if not number.is_integer() or not 0 <= number < MAX_CLASSES:
            return None
        if self._labels is not None:
            return self._labels.get(int(number))
        self._highest = max(self._highest, int(number))
        return int(number)
