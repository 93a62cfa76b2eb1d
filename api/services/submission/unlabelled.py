"""Images without labels as a specification names them: a folder, or a list of its images.

Counted and looked at is what can be in seconds: the training opens the header of every one of them, and compares them
with the validation's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from api.services.submission.findings import Findings
from api.services.submission.roots import PathRefused, locate_folder, open_file
from api.settings import Settings
from crosskd.errors import DataError
from crosskd.spec import registry
from crosskd.spec.coco.image_files import OUTSIDE_REMEDY, Look, explain_outside, look, sample
from crosskd.spec.coco.near_names import explain
from crosskd.spec.config import TrainConfig, UnlabelledConfig
from crosskd.spec.data.image_list import NO_NAMES, REMEDY, SUFFIXES, begins_like_an_image, image_names, read_names
from crosskd.spec.inputs import LeadsOutside, WrongKind, open_within, real_path
from wire.jobs import DataWarning, Spec

POINTER = "/spec/data/unlabelled"
LOOK_SECONDS = 2.0  # for a folder's names, for the sample of images, and once more for names that nearly match
MOST = 1_000_000  # names that are counted
BEGINNING = 12  # bytes of a file that tell its format
OTHER_IMAGES = "Name a folder of images, or leave `data.unlabelled` out."


def check(settings: Settings, section: UnlabelledConfig, validation: Path | None, findings: Findings) -> dict[str, Any]:
    """The section with absolute paths. `validation` is the folder of the validation images, where it is known."""
    values = section.model_dump()
    folder: Path | None = None
    try:
        folder = locate_folder(section.images, settings.data_roots)
        values["images"] = str(folder)
    except PathRefused as refused:
        findings.add(f"{POINTER}/images", refused.detail, refused.remedy)
    names: list[str] | None = None
    if section.names is not None:
        try:
            with open_file(section.names, settings.data_roots) as file, file.reader() as reader:
                values["names"] = str(file.path)
                names = read_names(reader, file.path.name)
        except (PathRefused, DataError) as refused:
            detail = refused.detail if isinstance(refused, PathRefused) else f"{refused.where}: {refused.message}"
            findings.add(f"{POINTER}/names", detail, refused.remedy)
    if folder is None or (section.names is not None and names is None):
        return values
    if section.names is not None and not names:
        findings.add(f"{POINTER}/names", NO_NAMES, REMEDY)
        return values
    whole = True
    if names is None:
        names, whole = _names(folder)
    _judge(folder, names, whole, [real_path(root) for root in settings.data_roots], findings)
    if validation is not None and section.names is None and validation.is_relative_to(folder):
        detail = "the images that AP is measured on lie in this folder: the training leaves them out, by their bytes"
        _warn(findings, "validation_images", len(names), detail, "Name a folder without them, or a list (`names`).")
    return values


def notes(spec: Spec) -> list[str]:
    """What of `distill` does not learn from images without labels."""
    if not isinstance(spec, TrainConfig) or spec.data.unlabelled is None or spec.distill is None:
        return []
    told = []
    for name in spec.distill.terms():
        if truth := registry.TERMS[name].truth:
            which = f"`distill.{name}`" if truth == "all" else f"{', '.join(truth)} of `distill.{name}`"
            told.append(f"{which} asks for the ground truth and is of labelled images alone")
    return told


def _names(folder: Path) -> tuple[list[str], bool]:
    """Those that can be listed in time, and whether these are all."""
    deadline = time.monotonic() + LOOK_SECONDS
    try:
        with open_within(folder, [folder], folder=True) as opened:
            listed = image_names(opened.descriptor, lambda: time.monotonic() >= deadline)
            names = list(islice(listed, MOST))
    except (OSError, WrongKind, LeadsOutside):  # it is replaced meanwhile: the training will say what it finds
        return [], False
    return names, time.monotonic() < deadline and len(names) < MOST


def _judge(folder: Path, names: Sequence[str], whole: bool, roots: Sequence[Path], findings: Findings) -> None:
    if not names and whole:
        findings.add(f"{POINTER}/images", f"there is no image ({', '.join(sorted(SUFFIXES))})", OTHER_IMAGES)
        return
    if not names:
        detail = "no image could be listed in time; the training takes what there is, and fails where that is none"
        _warn(findings, "unlabelled", 0, detail, "")
        return
    most = "" if whole else "at least "
    detail = f"{most}{len(names)} images without labels are learnt from besides; a sample of them was looked at"
    _warn(findings, "unlabelled", len(names), detail, "")
    found = look(folder, sample(names), roots, seconds=LOOK_SECONDS)
    if found.outside:
        findings.add(f"{POINTER}/images", explain_outside(found.outside, found.looked), OUTSIDE_REMEDY)
        return
    if found.missing:
        missing = explain(folder, found.missing, found.looked, roots, seconds=LOOK_SECONDS, listed=True)
        if len(found.missing) == found.looked:
            findings.add(f"{POINTER}/names", missing.detail, missing.remedy)
            return
        _warn(findings, "missing_image", len(found.missing), f"{missing.detail}; they are left out", missing.remedy)
    _look_inside(folder, names, found, roots, findings)


def _look_inside(folder: Path, names: Sequence[str], found: Look, roots: Sequence[Path], findings: Findings) -> None:
    gone = set(found.missing)
    there = [name for name in sample(names) if name not in gone]
    broken = [name for name in there if not _is_image(folder / name, [folder, *roots])]
    if not broken:
        return
    detail = f"{len(broken)} of {len(there)} files looked at are no images: {broken[0]!r:.120}"
    if len(broken) == len(there):
        findings.add(f"{POINTER}/images", detail, OTHER_IMAGES)
    else:
        _warn(findings, "broken_image", len(broken), f"{detail}; such are left out", "Replace or remove them.")


def _is_image(path: Path, roots: Sequence[Path]) -> bool:
    try:
        with open_within(path, roots) as file, file.reader() as reader:
            return begins_like_an_image(reader.read(BEGINNING))
    except (OSError, WrongKind, LeadsOutside):
        return False


def _warn(findings: Findings, kind: str, count: int, detail: str, remedy: str) -> None:
    pointer = f"{POINTER}/images"
    warning = DataWarning(pointer=pointer, kind=kind, count=count, detail=detail, of="images", remedy=remedy)
    findings.warnings.append(warning)
