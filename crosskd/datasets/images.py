"""Looks at every image of a source: whether it is there, can be decoded, and has the size that it is annotated with."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from PIL import Image

from crosskd.data.images import BROKEN, FORMATS, ImageFolder, exif_orientation
from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.model import Source, SourceImage
from crosskd.datasets.perceptual import perceptual_hash
from crosskd.errors import DataError, Interrupted
from crosskd.spec.coco.fields import encodes, unsafe_name
from crosskd.spec.data.section import DataConfig

MAX_PIXELS = int(DataConfig.model_fields["max_image_pixels"].default)  # that a training takes without being told
THREADS = min(8, os.cpu_count() or 1)  # decoding leaves the interpreter to others
_ABSENT = {
    "missing_image": "there is no such file",
    "outside_source": "it leads out of the data set's folder",
    "name_not_utf8": "its name is not UTF-8",
}
AT_ONCE = 8 * THREADS  # images between two looks at `stop`


@dataclass
class _Looked:
    """What was seen of an image; with a `kind` of fault it is not used."""

    kind: str = ""
    why: str = ""
    size: tuple[int, int] = (0, 0)  # height, width
    sha256: str = ""
    phash: int | None = None
    orientation: int = 1


def read_images(
    source: Source,
    faults: DatasetFaults,
    *,
    near: bool,
    on_progress: Callable[[int, int], None],
    stop: Callable[[], bool],
) -> None:
    """Read all images, and leave out those that no training could use. Sizes and hashes are filled in.

    `near`: compute perceptual hashes, too. Raises: `Interrupted` once `stop` says so.
    """
    folder = ImageFolder(source.root, MAX_PIXELS, roots=source.roots)
    total = sum(len(images) for images in source.splits.values())
    for name, images in source.ordered():
        _leave_out_absent(folder, images, faults)
        source.splits[name] = _once(images, faults)
    done = total - sum(len(images) for images in source.splits.values())
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(THREADS) as threads:
        # Ignored here, since what a thread sets for itself alone is seen by all of them.
        for name, images in source.ordered():
            kept: list[SourceImage] = []
            waiting = iter(images)
            while batch := list(islice(waiting, AT_ONCE)):
                if stop():
                    raise Interrupted("the import was asked to stop", step=0)
                for image, looked in zip(batch, threads.map(lambda i: _look(folder, i, near), batch), strict=True):
                    if _take(image, looked, faults):
                        kept.append(image)
                done += len(batch)
                on_progress(done, total)
            source.splits[name] = kept


def _leave_out_absent(folder: ImageFolder, images: list[SourceImage], faults: DatasetFaults) -> None:
    kinds: dict[str, str] = {}
    for image in images:
        if not encodes(image.name):
            kinds[image.name] = "name_not_utf8"
        elif unsafe_name(image.name):
            kinds[image.name] = "outside_source"
    found = folder.look([image.name for image in images if image.name not in kinds])
    kinds |= dict.fromkeys(found.missing, "missing_image") | dict.fromkeys(found.outside, "outside_source")
    for image in images:
        if (kind := kinds.get(image.name)) is not None:
            faults.add(kind, image.name, image.named(), _ABSENT[kind])
    images[:] = [image for image in images if image.name not in kinds]


def _once(images: Iterable[SourceImage], faults: DatasetFaults) -> list[SourceImage]:
    """The first entry of each file."""
    kept: dict[str, SourceImage] = {}
    for image in images:
        if image.name in kept:
            faults.add("name_twice", image.file, image.named(), f"{image.name} has another entry before it")
        else:
            kept[image.name] = image
    return list(kept.values())


def _look(folder: ImageFolder, image: SourceImage, near: bool) -> _Looked:
    size = (image.height, image.width) if image.width else None
    looked = _Looked()
    try:
        with folder.open(image.name) as file:
            looked.sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            file.seek(0)
            looked.orientation, stored = _header(file)
        if stored is None or stored[0] * stored[1] > MAX_PIXELS:
            return _Looked("too_many_pixels", f"it has more than {MAX_PIXELS} pixels")
        rgb = folder.read(image.name, size)
    except DataError as error:
        return _Looked(_kind(folder, image.name, size), error.message)
    looked.size = (rgb.height, rgb.width)
    if near:
        looked.phash = perceptual_hash(rgb)
    return looked


def _header(file: BinaryIO) -> tuple[int, tuple[int, int] | None]:
    """EXIF orientation, and width and height as stored; None: more than Pillow opens. A broken file is 1 and 0 x 0."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            # Pillow would decode a PNG to find a block behind its pixels.
            found = image.format != "PNG" or "exif" in image.info
            return (exif_orientation(image) if found else 1), image.size
    except Image.DecompressionBombError:
        return 1, None
    except BROKEN:
        return 1, (0, 0)


def _kind(folder: ImageFolder, name: str, size: tuple[int, int] | None) -> str:
    """Why an image that is there cannot be read, by its header."""
    try:
        measured, _ = folder.measure(name)
    except DataError:
        return "unreadable_image"
    return "unreadable_image" if size is None or size in (measured, measured[::-1]) else "wrong_size"


def _take(image: SourceImage, looked: _Looked, faults: DatasetFaults) -> bool:
    if looked.kind:
        faults.add(looked.kind, image.name, image.named(), looked.why)
        return False
    if looked.orientation != 1:
        faults.add("exif_rotation", image.name, image.named(), f"its EXIF orientation is {looked.orientation}")
    image.height, image.width = looked.size
    image.sha256, image.phash = looked.sha256, looked.phash
    return True
