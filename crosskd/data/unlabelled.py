"""Images without labels: which of them are taken, and reading them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosskd.data.coco import CocoDataset, Example
from crosskd.data.images import ImageFolder
from crosskd.errors import DataError
from crosskd.spec import inputs
from crosskd.spec.coco.image_files import OUTSIDE_REMEDY, explain_outside
from crosskd.spec.coco.near_names import explain
from crosskd.spec.config import UnlabelledConfig
from crosskd.spec.data.image_list import NO_NAMES, SUFFIXES, image_names, read_names
from crosskd.spec.data.section import SixteenBit

log = logging.getLogger(__name__)

WHERE = "/data/unlabelled"
END = 4096  # bytes, by which a file is told from others of its length
NO_ID = -1  # such an image has no number in any file


@dataclass
class Found:
    """What became of the images that a folder or a list has."""

    images: int = 0
    repeated: int = 0  # names of a list that stood in it before
    missing: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)  # name -> fault
    validation: list[str] = field(default_factory=list)  # left out: AP is measured on them
    training: int = 0  # kept: the student may see them twice, with their labels and without

    def remarks(self) -> list[str]:
        """All that is dropped or odd, in words; none where all are taken."""
        told = {
            "names stand in the list twice": self.repeated,
            "are missing and left out": len(self.missing),
            "cannot be read and are left out": len(self.broken),
            "are validation images, by their bytes, and are left out": len(self.validation),
            "are training images, too, by their bytes, and are kept": self.training,
        }
        return [f"{count} of {self.images} images without labels {what}" for what, count in told.items() if count]


class UnlabelledImages:
    """The images without labels of a training, by number; each is an `Example` without boxes.

    Left out are those that are missing or whose header cannot be read, and the images of `validation`; told are those
    of `training`. The same image is one of the same bytes. Images may be links to files in the folder and in `roots`
    (real paths).

    Raises:
        DataError: none is left, the list is broken, or an image is a link that leads out of the data.
    """

    def __init__(
        self,
        config: UnlabelledConfig,
        *,
        training: CocoDataset,
        validation: CocoDataset,
        max_image_pixels: int = 64_000_000,
        sixteen_bit: SixteenBit = "high_byte",
        roots: Sequence[Path] = (),
    ) -> None:
        self.config = config
        self.folder = ImageFolder(config.images, max_image_pixels, sixteen_bit, roots=roots)
        self.found = Found()
        sizes, lengths = self._measured(self._listed())
        self._compare(lengths, training, validation)
        left_out = set(self.found.validation)
        self.names = [name for name in sizes if name not in left_out]
        self.sizes: NDArray[np.int64] = np.array([sizes[name] for name in self.names], np.int64).reshape(-1, 2)
        self.digest = _digest(f"{name}\n{lengths[name]}\n" for name in self.names)
        for remark in self.found.remarks():
            log.warning("%s: %s", self.folder.root, remark)
        if not self.names:
            raise self._none()
        log.info("%d images without labels", len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The file name of image `index`."""
        return self.names[index]

    def __getitem__(self, index: int) -> Example:
        """Read image `index`, upright as its EXIF says. Raises DataError if it cannot be read."""
        image = self.folder.read(self.names[index])
        return Example(NO_ID, image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))

    def summary(self) -> dict[str, Any]:
        """For a manifest: what there is, what is used, what is left out; and a digest of names and sizes in bytes."""
        found = self.found
        return {
            "images": found.images,
            "images_used": len(self),
            "missing": len(found.missing),
            "broken": len(found.broken),
            "repeated": found.repeated,
            "validation_images_left_out": len(found.validation),
            "training_images": found.training,
            "list_sha256": self.digest,
        }

    def _listed(self) -> list[str]:
        if self.config.names is None:
            with self.folder.open_folder() as top:
                names = list(image_names(top))
        else:
            with inputs.opened(self.config.names).open("rb") as file:
                names = read_names(file, self.config.names)
        unique = list(dict.fromkeys(PurePosixPath(name).as_posix() for name in names))
        self.found.images, self.found.repeated = len(names), len(names) - len(unique)
        look = self.folder.look(unique)
        if look.outside:
            raise DataError(
                explain_outside(look.outside, look.looked), where=str(self.folder.root), remedy=OUTSIDE_REMEDY
            )
        self.found.missing = look.missing
        gone = set(look.missing)
        return [name for name in unique if name not in gone]

    def _measured(self, names: Iterable[str]) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
        """(height, width) and bytes of those whose header can be read."""
        sizes, lengths = {}, {}
        for name in names:
            try:
                sizes[name], lengths[name] = self.folder.measure(name)
            except DataError as error:
                self.found.broken[name] = str(error)
        for fault in list(self.found.broken.values())[:1]:
            log.warning("image without labels left out: %s; it is the first of them", fault)
        return sizes, lengths

    def _compare(self, lengths: dict[str, int], training: CocoDataset, validation: CocoDataset) -> None:
        by_length: defaultdict[int, list[str]] = defaultdict(list)
        for name, length in lengths.items():
            by_length[length].append(name)
        ours = _Bytes(self.folder)
        self.found.validation = self._same(validation, by_length, ours)
        self.found.training = len(set(self._same(training, by_length, ours)) - set(self.found.validation))

    def _same(self, split: CocoDataset, by_length: dict[int, list[str]], ours: _Bytes) -> list[str]:
        """Ours that are images of `split`: of files of one length the ends are read, and the whole where these agree.

        In large folders most lengths come on both sides, and to read every file would take longer than an epoch.
        """
        theirs = _Bytes(split.folder)
        known: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
        for index in range(len(split)):
            name = split.name(index)
            try:
                length = (split.folder.root / name).stat().st_size
                if length in by_length:
                    known[length, theirs.end(name)].append(name)
            except (OSError, DataError):  # it cannot be read: whoever wants to learn from it will say so
                continue
        same = []
        for (length, end), names in known.items():
            alike = [name for name in by_length[length] if ours.end(name) == end]
            whole = {theirs.whole(name) for name in names} if alike else set[str]()
            same += [name for name in alike if ours.whole(name) in whole]
        return same

    def _none(self) -> DataError:
        found, where = self.found, str(self.folder.root)
        if found.missing:
            missing = explain(self.folder.root, found.missing, found.images, self.folder.roots, listed=True)
            return DataError(missing.detail, where=where, remedy=missing.remedy)
        nothing = f"there is no image ({', '.join(sorted(SUFFIXES))})"
        if self.config.names is not None and not found.images:
            nothing, where = NO_NAMES, self.config.names
        why = "; ".join(found.remarks()) or nothing
        return DataError(
            f"no image without labels is left to learn from: {why}",
            where=where,
            remedy="Name a folder or a list of other images, or leave `data.unlabelled` out.",
        )


class _Bytes:
    """Digests of the files of a folder, each read once."""

    def __init__(self, folder: ImageFolder) -> None:
        self.folder = folder
        self._known: dict[tuple[str, int], str] = {}

    def end(self, name: str) -> str:
        """Of the last bytes alone: photographs of one camera begin alike."""
        return self._read(name, END)

    def whole(self, name: str) -> str:
        return self._read(name, 0)

    def _read(self, name: str, last: int) -> str:
        """Of the `last` bytes; 0: of all."""
        if (name, last) not in self._known:
            with self.folder.open(name) as file:
                if last:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - last))
                self._known[name, last] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return self._known[name, last]


def _digest(lines: Iterable[str]) -> str:
    whole = hashlib.sha256()
    for line in lines:
        whole.update(line.encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
