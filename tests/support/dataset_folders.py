"""Data sets of YOLO and Pascal VOC on disk, for the tests of imports."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from labelformat.formats import COCOObjectDetectionInput, PascalVOCObjectDetectionOutput, YOLOv8ObjectDetectionOutput

from tests.support.coco_files import noise

SIZE = (64, 48)  # width, height of the images that `lay` makes


def lay(folder: Path, files: Mapping[str, str | bytes | None]) -> Path:
    """Write files by their paths. None: an image of noise, of `SIZE`, no two of them alike."""
    for number, (name, content) in enumerate(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            noise(*SIZE, seed=number).save(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content)
    return folder


def voc(filename: str, *objects: str, size: tuple[int, int] | None = SIZE) -> str:
    """An XML file of Pascal VOC; an object as `voc_object` writes it."""
    told = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{told}{''.join(objects)}</annotation>"


def voc_object(name: str, *edges: object, more: str = "") -> str:
    """xmin, ymin, xmax, ymax."""
    tags = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in zip(tags, edges, strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def to_yolo(coco: Path, to: Path) -> Path:
    """A COCO folder as labelformat writes it in YOLO's form: each split in a folder of its own, with a data.yaml."""
    lines = []
    for split in ("train", "val"):
        read = COCOObjectDetectionInput(coco / f"{split}.json")
        YOLOv8ObjectDetectionOutput(to / split / "data.yaml", split).save(read)
        (to / split / "images").mkdir(parents=True)
        for image in read.get_images():
            shutil.copyfile(coco / "images" / image.filename, to / split / "images" / image.filename)
        lines.append(f"{split}: ../{split}/images\n")
        names = "".join(f"  {category.id}: {category.name}\n" for category in read.get_categories())
    (to / "data.yaml").write_text(f"{''.join(lines)}names:\n{names}")
    return to


def to_voc(coco: Path, to: Path) -> Path:
    """A COCO folder as labelformat writes it in Pascal VOC's form, with the lists of the splits."""
    for split in ("train", "val"):
        read = COCOObjectDetectionInput(coco / f"{split}.json")
        PascalVOCObjectDetectionOutput(to / "Annotations").save(read)
        names = [image.filename for image in read.get_images()]
        lay(to, {f"ImageSets/Main/{split}.txt": "".join(f"{Path(name).stem}\n" for name in names)})
        (to / "JPEGImages").mkdir(exist_ok=True)
        for name in names:
            shutil.copyfile(coco / "images" / name, to / "JPEGImages" / name)
    return to
