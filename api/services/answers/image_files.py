"""The bytes of validation images: opened below the data roots, by a name that the job's split has."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import BinaryIO, NamedTuple

from api.errors import Gone, InvalidSpec, NotFound, UnsupportedMediaType
from api.images.queries import ImageFile
from api.processes.pool import Refused
from api.services.answers.image_sources import Source
from api.services.submission import roots
from api.services.submission.roots import PathRefused
from api.settings import Settings
from crosskd.spec.coco.fields import unsafe_name
from crosskd.spec.coco.image_files import OUTSIDE_REMEDY
from crosskd.spec.inputs import LeadsOutside, WrongKind, open_within, real_path
from wire.errors import Fault

MOST_BYTES = 1 << 28  # of a file that a thumbnail is made of
# What a browser shows, or at least saves, and never runs. A file's own bytes say what it is, not its name.
_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    *((b"P%d" % number, "image/x-portable-anymap") for number in range(1, 7)),
)
_WEBP = "image/webp"
MEDIA_TYPES = (*dict.fromkeys(media_type for _, media_type in _SIGNATURES), _WEBP)
_HEAD = 16  # bytes


class OpenImage(NamedTuple):
    """An image, open. `tag` stands for what it holds: size, time and place on the disk."""

    file: BinaryIO
    size: int
    tag: str
    media_type: str


def open_image(source: Source, settings: Settings, image: int, named: ImageFile) -> OpenImage:
    """The file of an image of the split.

    Raises:
        Gone: it is there no more, or cannot be read.
        NotFound: its name or a link leads out of the data.
        UnsupportedMediaType: it is no image.
    """
    file = _open(source, settings, image, named.name)
    try:
        status = os.fstat(file.fileno())
        media_type = sniffed(os.pread(file.fileno(), _HEAD, 0))
        if media_type is None:
            raise UnsupportedMediaType(
                f"{_told(image, named.name)} is no image of a known format", remedy="Look at the file itself."
            )
    except BaseException:
        file.close()
        raise
    parts = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
    return OpenImage(file, status.st_size, hashlib.sha256(repr(parts).encode()).hexdigest(), media_type)


def _open(source: Source, settings: Settings, image: int, name: str) -> BinaryIO:
    told = _told(image, name)
    if fault := unsafe_name(name):
        raise NotFound(f"{told} {fault}", remedy="Rename the file.")
    try:
        folder = roots.locate_folder(source.images, settings.data_roots)
        with open_within(folder / name, [folder, *map(real_path, settings.data_roots)]) as found:
            return os.fdopen(os.dup(found.descriptor), "rb")
    except PathRefused as error:
        raise _gone(f"the folder of the images cannot be opened: {error.detail}", error.remedy) from None
    except LeadsOutside:
        raise NotFound(f"{told} is a link that leads out of the data", remedy=OUTSIDE_REMEDY) from None
    except WrongKind:
        raise _gone(f"{told} is no regular file", "Put the image back.") from None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            remedy = "Put it back where the job found it. Its boxes are told all the same."
            raise _gone(f"{told} is no longer there", remedy) from None
        raise _gone(f"{told} cannot be read: {error.strerror}", "Give the API's user the right to read it.") from None


def _told(image: int, name: str) -> str:
    return f"the image {image}, {name!r:.200},"


def _gone(detail: str, remedy: str) -> Gone:
    return Gone(detail, remedy=remedy)


def sniffed(head: bytes) -> str | None:
    """The media type of a file that begins so; None: it is none of the images that a training reads."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _WEBP
    return next((media_type for signature, media_type in _SIGNATURES if head.startswith(signature)), None)


def thumbnail_order(source: Source, settings: Settings, named: ImageFile, side: int) -> dict[str, int | str]:
    """What a process for thumbnails is asked."""
    return {
        "side": side,
        "width": named.width,
        "height": named.height,
        "sixteen_bit": source.sixteen_bit,
        "pixels": min(source.max_pixels, settings.thumbnail_pixels),
    }


def content_of(opened: OpenImage, image: int, named: ImageFile) -> bytes:
    """All bytes of an image, which is closed. Raises `InvalidSpec` for more than a thumbnail is made of."""
    with opened.file as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise _unusable(image, named, f"it has more than {MOST_BYTES:,} bytes", "Fetch the image itself.")
    return content


def refused(image: int, named: ImageFile, error: Refused) -> InvalidSpec:
    """Why there is no thumbnail."""
    return _unusable(image, named, error.detail, error.remedy)


def _unusable(image: int, named: ImageFile, detail: str, remedy: str) -> InvalidSpec:
    fault = Fault(pointer="image", detail=f"{_told(image, named.name)} has no thumbnail: {detail}", remedy=remedy)
    return InvalidSpec("the image cannot be shown", errors=[fault])
