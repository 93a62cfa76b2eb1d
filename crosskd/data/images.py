"""Reads images from a folder, from nowhere else, and hands them over as 8-bit RGB."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from crosskd.data.sixteen_bit import is_sixteen_bit, nearly_black, stretched
from crosskd.errors import DataError
from crosskd.spec import inputs
from crosskd.spec.coco.fields import unsafe_name
from crosskd.spec.coco.image_files import OUTSIDE_REMEDY, Look, look
from crosskd.spec.data.section import SixteenBit

CHECK_FOLDER = "Check the image folder against the file."
# Pillow also opens PostScript, by running Ghostscript, and many formats that no data set has.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
ORIENTATION = 0x0112  # EXIF
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = (5, 6, 7, 8)  # whose width is the stored height

# What Pillow raises on broken bytes. It parses a format's own structures with little checking, so a wrong offset or
# count ends as any of these.
BROKEN = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class ImageFolder:
    """The folder that file names are relative to. It may be a link itself.

    Links inside may lead to anywhere in it or in `roots`, the folders whose files may be read, nowhere else. `roots`
    are real paths, as `inputs.real_path` gives them: a root that becomes a link leads nowhere else. `dark` has a remark
    on each 16-bit image read so far that came out nearly black.
    """

    def __init__(
        self,
        root: Path | str,
        max_pixels: int,
        sixteen_bit: SixteenBit = "high_byte",
        *,
        roots: Sequence[Path] = (),
    ) -> None:
        self.sixteen_bit = sixteen_bit
        self.dark: dict[str, str] = {}
        self.root = inputs.folder_path(root)
        self.roots = list(roots)
        self.max_pixels = max_pixels
        if not self.root.is_dir():
            raise DataError("the image folder does not exist", where=str(root), remedy="Check the path of the images.")

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file, open. Raises DataError if it is missing, no regular file, or outside.

        It is judged as it was opened: a link that is changed meanwhile leads nowhere else.
        """
        path = self.root / name
        if fault := unsafe_name(name):
            raise DataError(f"the file name {name!r} {fault}", where=str(self.root), remedy="Rename the file.")
        try:
            found = inputs.open_within(path, [self.root, *self.roots])
        except inputs.LeadsOutside:
            raise DataError(
                "the image is a link that leads out of the data", where=str(path), remedy=OUTSIDE_REMEDY
            ) from None
        except (OSError, inputs.WrongKind) as error:
            raise DataError(f"the image {_fault(error)}", where=str(path), remedy=CHECK_FOLDER) from None
        with found, found.reader() as file:
            yield file

    @contextlib.contextmanager
    def open_folder(self) -> Iterator[int]:
        """A descriptor of the folder itself. Raises DataError if it is not what it was."""
        try:
            found = inputs.open_within(self.root, [self.root], folder=True)
        except (OSError, inputs.WrongKind, inputs.LeadsOutside) as error:
            raise DataError(
                "the image folder cannot be read", where=str(self.root), remedy="Check the path of the images."
            ) from error
        with found:
            yield found.descriptor

    def look(self, names: Iterable[str]) -> Look:
        """Which of the names are no files. One listing per folder: quick for a hundred thousand names."""
        return look(self.root, names, self.roots)

    def read(self, name: str, size: tuple[int, int] | None = None) -> Image.Image:
        """An image in mode RGB, of `size` (height, width).

        EXIF orientation is applied where that leads to `size`, or where no size is given, as OpenCV and annotation
        tools do; transparency is dropped, 16-bit images become 8-bit ones as `sixteen_bit` says. Only the first frame
        of an animation is read. What Pillow merely warns of, such as a broken EXIF block, is passed over in silence: in
        a data set it would be said every epoch.

        Raises:
            DataError: missing, truncated, no image, of another size, or above `max_pixels`, checked before decoding.
        """
        path = self.root / name
        try:
            with (
                warnings.catch_warnings(action="ignore", category=UserWarning),
                self.open(name) as file,
                self._decoded(file, path) as image,
            ):
                self._check_pixels(image, path)
                rgb, remark = as_rgb(image, str(path), self.sixteen_bit, file=file, size=size)
                if remark:
                    self.dark[name] = remark
        except BROKEN as error:
            raise self._undecodable(error, path) from None
        return rgb

    def measure(self, name: str) -> tuple[tuple[int, int], int]:
        """(height, width) of an image as `read` gives it without a size, by its header alone, and the file's bytes.

        An EXIF block that stands behind the pixels of a PNG is not looked for.

        Raises `DataError` as `read` does, but for faults behind the header.
        """
        path = self.root / name
        try:
            with (
                warnings.catch_warnings(action="ignore", category=UserWarning),
                self.open(name) as file,
                self._decoded(file, path) as image,
            ):
                self._check_pixels(image, path)
                # Pillow would decode a PNG to find one.
                turned = (image.format != "PNG" or "exif" in image.info) and exif_orientation(image) in TURNED
                size = (image.width, image.height) if turned else (image.height, image.width)
                return size, os.fstat(file.fileno()).st_size
        except BROKEN as error:
            raise self._undecodable(error, path) from None

    def _undecodable(self, error: Exception, path: Path) -> DataError:
        if isinstance(error, UnidentifiedImageError):
            message = f"the file is not an image of a known format ({', '.join(FORMATS)})"
        else:
            message = f"the image cannot be decoded: {str(error) or type(error).__name__}"
        return DataError(message, where=str(path), remedy="Replace the file, or raise max_corrupt_images.")

    def _decoded(self, file: BinaryIO, path: Path) -> Image.Image:
        alarm = Image.MAX_IMAGE_PIXELS
        if alarm is not None and self.max_pixels > alarm:
            Image.MAX_IMAGE_PIXELS = self.max_pixels  # Pillow's own alarm, or the larger limit would have no effect
        try:
            return Image.open(file, formats=FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise self._gigantic("", path) from None

    def _check_pixels(self, image: Image.Image, path: Path) -> None:
        if image.width * image.height > self.max_pixels:
            raise self._gigantic(f" of {image.width} x {image.height}", path)

    def _gigantic(self, size: str, path: Path) -> DataError:
        return DataError(
            f"the image{size} has more than max_image_pixels ({self.max_pixels}) pixels",
            where=str(path),
            remedy="Shrink it, or raise data.max_image_pixels.",
        )


def as_rgb(
    image: Image.Image,
    where: str,
    sixteen_bit: SixteenBit,
    *,
    file: BinaryIO | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Image.Image, str]:
    """An opened image in mode RGB, upright as `ImageFolder.read` says, and a remark on one that is nearly black.

    `file` is what it was read from, `where` its name in messages. Raises `DataError`, and on broken bytes whatever is
    in `BROKEN`.
    """
    deep = is_sixteen_bit(image)  # before it is loaded, as a search for EXIF may do
    transpose = _orientation(image, size, where)
    image.load()
    stretch = deep and sixteen_bit == "own_range"
    if stretch and file is None and not image.mode.startswith("I;16"):
        raise DataError(
            "the image has 16 bits a colour, which Pillow alone does not give, and the model wants them all",
            where=where,
            remedy="Give the path of the file.",
        )
    rgb = stretched(image, file) if stretch else _to_rgb(image, where)
    remark = nearly_black(rgb) if deep and not stretch else ""
    return (rgb if transpose is None else rgb.transpose(transpose)), remark


def _fault(error: OSError | inputs.WrongKind) -> str:
    """What is wrong with a file that could not be opened."""
    if isinstance(error, inputs.WrongKind):
        return "is not a regular file"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return "is missing"
    return f"cannot be opened: {error.strerror}"


def _orientation(image: Image.Image, size: tuple[int, int] | None, where: str) -> Image.Transpose | None:
    """The transpose that turns the stored image into the annotated one; without annotation, as EXIF says."""
    height, width = image.height, image.width
    value = exif_orientation(image)
    turned = (width, height) if value in TURNED else (height, width)
    if size in (None, turned):
        return TRANSPOSES.get(value)
    assert size is not None
    if (height, width) == size:
        return None
    raise DataError(
        f"the image is {turned[1]} x {turned[0]} pixels, but annotated as {size[1]} x {size[0]}",
        where=where,
        remedy="Write the image's true `width` and `height` into its entry and scale its boxes alike, or put the image "
        "there that was annotated.",
    )


def exif_orientation(image: Image.Image) -> int:
    """1 to 8; 1, as stored, also where the EXIF block is broken: the image itself may be sound."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
        return value if value in TRANSPOSES else 1
    except BROKEN:
        return 1


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataError(
            f"the image has 32-bit pixels (mode {image.mode}), whose range is anyone's guess",
            where=where,
            remedy="Convert it to 8 or 16 bits.",
        )
    if image.mode == "P":  # a palette may be transparent, which only RGBA can take over
        image = image.convert("RGBA")
    return image.convert("RGB")
