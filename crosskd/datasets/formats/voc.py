"""Reads a data set in Pascal VOC's form: an XML file for each image.

Numbers are taken as they stand, xmin to xmax and ymin to ymax, as LabelImg, CVAT and labelformat write them. In the
PASCAL VOC originals the first pixel is 1, so their boxes lie one pixel further to the right and below.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.formats.listing import files_below
from crosskd.datasets.formats.opening import Sources, is_there
from crosskd.datasets.model import SPLITS, TEST, TRAIN, VAL, Box, Source, SourceImage
from crosskd.errors import ConfigError, DataError
from crosskd.spec.coco.fields import MAX_NAME, MAX_SIDE, encodes
from crosskd.spec.data.image_list import SUFFIXES
from crosskd.spec.section import MAX_CLASSES

MOST_BYTES = 16 << 20  # of an XML file
MOST_LIST = 64 << 20  # of a list of a split
ANNOTATIONS = "Annotations"
FOLDERS = ("JPEGImages", "images", "Images", ".")  # of the images, beside the folder of the XML files
BY_FOLDER = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}


def read_voc(sources: Sources, faults: DatasetFaults) -> Source:
    """Raises: `ConfigError` where there is no XML file; `DataError` for lists or classes that cannot be used."""
    if sources.file is not None:
        raise ConfigError("a data set of Pascal VOC is a folder", where="/source", remedy="Name the folder.")
    files = list(files_below(sources, sources.folder, {".xml"}))
    if not files:
        raise ConfigError(
            f"there is no XML file in {str(sources.folder)!r}", remedy="Name the folder with Annotations."
        )
    reader = _Reader(sources, faults)
    lists = _lists(sources)
    splits: dict[str, list[SourceImage]] = {name: [] for name in SPLITS}
    for path in files:
        image = reader.image(path)
        if image is None:
            continue
        named = _splits_of(path, lists, sources)
        for split in named:
            splits[split].append(image if len(named) == 1 else _copy(image))
        if not named:
            faults.add("in_no_split", sources.name(path), "", "no list in ImageSets/Main names it")
    _without_file(lists, files, sources, faults)
    reader.unlisted()
    found = {name: images for name, images in splits.items() if images}
    return Source("voc", sources.folder, reader.settle(found), found, sources.allowed())


def _copy(image: SourceImage) -> SourceImage:
    """Of an image that several lists name: each split has boxes of its own."""
    boxes = [Box(b.label, b.x, b.y, b.w, b.h, b.id, b.area, b.crowd, b.ignore) for b in image.boxes]
    return SourceImage(image.name, image.file, boxes, image.width, image.height)


# --- splits ----------------------------------------------------------------------------------------------------------


def _lists(sources: Sources) -> dict[Path, dict[str, set[str]]]:
    """By the folder of ImageSets: the names in Main/train.txt, Main/val.txt and Main/test.txt."""
    found: defaultdict[Path, dict[str, set[str]]] = defaultdict(dict)
    for path in files_below(sources, sources.folder, {".txt"}):
        if path.parts[-3:-1] != ("ImageSets", "Main") or path.stem not in (*SPLITS, "trainval"):
            continue
        try:
            text = sources.read(path, MOST_LIST).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{sources.name(path)} is not UTF-8", remedy="Save the file as UTF-8.") from None
        found[path.parents[2]][path.stem] = {line.split()[0] for line in text.splitlines() if line.strip()}
    return found


def _splits_of(path: Path, lists: dict[Path, dict[str, set[str]]], sources: Sources) -> list[str]:
    """The splits of an XML file: by the lists beside its folder, else by a folder that is named as one."""
    for folder, names in lists.items():
        if path.is_relative_to(folder):
            listed = [split for split in SPLITS if path.stem in names.get(split, ())]
            whole = path.stem in names.get("trainval", ()) and not {TRAIN, VAL} & set(names)
            return listed or ([TRAIN] if whole else [])
    parts = path.relative_to(sources.folder).parts[:-1]
    return [next((BY_FOLDER[part.lower()] for part in parts if part.lower() in BY_FOLDER), TRAIN)]


def _without_file(
    lists: dict[Path, dict[str, set[str]]], files: Sequence[Path], sources: Sources, faults: DatasetFaults
) -> None:
    """Names of lists that no XML file has."""
    stems = {path.stem for path in files}
    for folder, names in lists.items():
        for split, listed in names.items():
            for name in sorted(listed - stems):
                file = sources.name(folder / "ImageSets" / "Main" / f"{split}.txt")
                faults.add("bad_entry", file, name, "there is no XML file of this name")


# --- files -----------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads XML files, and remembers the classes and the images that they name."""

    def __init__(self, sources: Sources, faults: DatasetFaults) -> None:
        self._sources, self._faults = sources, faults
        self._names: dict[str, int] = {}  # in the order in which they are met
        self._images: set[str] = set()
        self._folders: dict[Path, None] = {}

    def image(self, path: Path) -> SourceImage | None:
        """None: the file cannot be read, or its image is not there."""
        file = self._sources.name(path)
        root = self._parse(path, file)
        if root is None:
            return None
        place = self._place(path, root.findtext("filename") or "")
        if place is None:
            self._faults.add("label_without_image", file, "", f"{root.findtext('filename') or path.stem} is not there")
            return None
        name = place.relative_to(self._sources.folder).as_posix()
        self._images.add(name)
        self._folders[place.parent] = None
        width, height = (self._side(root, side) for side in ("width", "height"))
        if not (width and height):
            self._faults.add("no_size", file, "", "it does not say the width and height of its image")
            width = height = 0
        boxes = [self._box(each, at, file) for at, each in enumerate(root.iterfind("object"), start=1)]
        return SourceImage(name, file, [box for box in boxes if box is not None], width, height)

    def unlisted(self) -> None:
        """Images beside those that are named, without an XML file."""
        for folder in self._folders:
            for path in files_below(self._sources, folder, SUFFIXES):
                name = path.relative_to(self._sources.folder).as_posix()
                if path.parent == folder and name not in self._images:
                    self._faults.add("unlisted_image", name, "", "it has no XML file")

    def settle(self, splits: dict[str, list[SourceImage]]) -> list[str]:
        """The classes by name, to which the boxes' labels are brought. Raises: `DataError` for too many."""
        if len(self._names) > MAX_CLASSES:
            raise DataError(
                f"there are {len(self._names)} classes, at most {MAX_CLASSES} can be", remedy="Leave some out."
            )
        classes = sorted(self._names)
        order = {self._names[name]: label for label, name in enumerate(classes)}
        for images in splits.values():
            for image in images:
                for box in image.boxes:
                    box.label = order[box.label]
        return classes

    def _parse(self, path: Path, file: str) -> Element | None:
        try:
            root = fromstring(self._sources.read(path, MOST_BYTES), forbid_dtd=True)
        except (ParseError, LookupError, ValueError) as error:
            detail = (
                "it has a DOCTYPE, which could declare entities"
                if isinstance(error, DefusedXmlException)
                else f"it is no XML: {error}"
            )
            kind = (
                "not_utf8" if "invalid token" in str(error) and _not_utf8(self._sources, path) else "unreadable_label"
            )
            self._faults.add(kind, file, "", detail)
            return None
        except DataError as error:
            self._faults.add("unreadable_label", file, "", error.message)
            return None
        if root.tag != "annotation":
            self._faults.add("unreadable_label", file, "", f"its root is <{root.tag:.60}>, not <annotation>")
            return None
        assert isinstance(root, Element)
        return root

    def _place(self, path: Path, filename: str) -> Path | None:
        """The image of an XML file: as it names it, else of its own name; beside it, or in a folder beside its own."""
        leaf = filename.replace("\\", "/").rpartition("/")[2].strip()
        leaf = "" if "\0" in leaf or leaf in (".", "..") else leaf
        parents = [path.parent, *(path.parent.parent / name for name in FOLDERS)]
        parents += [path.parent / name for name in FOLDERS]
        nested = _below_annotations(path)
        if nested is not None:
            parents += [nested[0] / name / nested[1] for name in FOLDERS]
        names = [*([leaf] if leaf else []), *(path.stem + suffix for suffix in self._suffixes())]
        for name in names:
            for parent in parents:
                if parent.is_relative_to(self._sources.folder) and is_there(parent / name, file=True):
                    return parent / name
        return None

    @staticmethod
    def _suffixes() -> Sequence[str]:
        return [".jpg", *(spelt for suffix in sorted(SUFFIXES) for spelt in (suffix, suffix.upper()))]

    @staticmethod
    def _side(root: Element, side: str) -> int:
        """0: it is not said."""
        value = _number(root.findtext(f"size/{side}"))
        return int(value) if value is not None and value.is_integer() and 0 < value <= MAX_SIDE else 0

    def _box(self, entry: Element, at: int, file: str) -> Box | None:
        where = f"object {at}"
        name = (entry.findtext("name") or "").strip()
        if not name or len(name) > MAX_NAME or not encodes(name):
            self._faults.add("unknown_class", file, where, f"<name> must have 1 to {MAX_NAME} characters")
            return None
        texts = [entry.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        if None in texts:
            self._faults.add("bad_entry", file, where, "it has no <bndbox> with xmin, ymin, xmax and ymax")
            return None
        numbers = [_number(text) for text in texts]
        x1, y1, x2, y2 = numbers
        if x1 is None or y1 is None or x2 is None or y2 is None:
            self._faults.add("not_a_number", file, where, ", ".join(f"{text!r:.40}" for text in texts))
            return None
        ignore = self._flag(entry, "difficult", file, where)
        self._flag(entry, "truncated", file, where)
        label = self._names.setdefault(name, len(self._names))
        return Box(label, x1, y1, x2 - x1, y2 - y1, where, ignore=ignore)

    def _flag(self, entry: Element, name: str, file: str, where: str) -> bool:
        is_set = (entry.findtext(name) or "0").strip().lower() in ("1", "true", "yes")
        if is_set:
            self._faults.add(name, file, where, "")
        return is_set


def _below_annotations(path: Path) -> tuple[Path, Path] | None:
    """Of .../Annotations/a/b/x.xml: the folder that holds Annotations, and a/b."""
    parts = path.parts
    if ANNOTATIONS not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index(ANNOTATIONS)
    return Path(*parts[:at]), Path(*parts[at + 1 : -1])


def _not_utf8(sources: Sources, path: Path) -> bool:
    try:
        sources.read(path, MOST_BYTES).decode()
    except UnicodeDecodeError:
        return True
    return False


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
