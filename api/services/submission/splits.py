"""One split of a data set as a specification names it: an annotation file and the folder of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from api.database import Database
from api.services.submission import datasets, named_data
from api.services.submission.findings import Findings
from api.services.submission.named_data import Version
from api.services.submission.roots import PathRefused, locate_folder, open_file
from api.settings import Settings
from api.storage import Storage
from crosskd.spec.coco.image_files import OUTSIDE_REMEDY, explain_outside, look
from crosskd.spec.coco.near_names import explain
from crosskd.spec.coco.survey import Use
from crosskd.spec.config import CocoSplit
from crosskd.spec.data.section import annotations_of
from crosskd.spec.inputs import real_path
from wire.errors import Fault
from wire.jobs import DataWarning

LOOK_SECONDS = 2.0  # for the sample of images, and once more for names that nearly match


def check(
    database: Database,
    settings: Settings,
    split: CocoSplit,
    use: Use,
    allowed: int,
    findings: Findings,
    source: tuple[Version, Storage] | None = None,
) -> tuple[dict[str, Any], datasets.CheckResult | None]:
    """`/spec/data/{use.split}` with absolute paths, and what its file holds; None where the file is at fault.

    `allowed` images may be missing. `source` has the split in place of the files that `split` names. Raises
    `Unavailable`: too many annotation files are being checked.
    """
    if source is not None:
        return _check_stored(database, settings, *source, use, allowed, findings)
    pointer, values = f"/spec/data/{use.split}", split.model_dump()
    images: Path | None = None
    try:
        images = locate_folder(split.images, settings.data_roots)
        values["images"] = str(images)
    except PathRefused as refused:
        findings.add(f"{pointer}/images", refused.detail, refused.remedy)
    try:
        with open_file(split.annotations, settings.data_roots) as file:
            annotations = file.path
            values["annotations"] = str(annotations)
            result = datasets.examine(database, file, settings.coco_check_seconds, use)
    except PathRefused as refused:
        findings.add(f"{pointer}/annotations", refused.detail, refused.remedy)
        return values, None
    except datasets.CheckFailed as failed:
        findings.add(f"{pointer}/annotations", f"{annotations.name} {failed.detail}", failed.remedy)
        return values, None
    places = _Places(f"{pointer}/annotations", annotations.name, f"{pointer}/images")
    return values, _judged(places, images, settings, result, use, allowed, findings)


class _Places(NamedTuple):
    """Where faults of a split are told: of its annotation file, which is called `name`, and of its images."""

    annotations: str
    name: str
    images: str


def _judged(
    places: _Places,
    images: Path | None,
    settings: Settings,
    result: datasets.CheckResult,
    use: Use,
    allowed: int,
    findings: Findings,
) -> datasets.CheckResult | None:
    """What the file holds, with the rest of its faults told; None where it is at fault."""
    if result.fault_count:
        findings.faults.extend(_coco_faults(places.annotations, places.name, result))
        return None
    if use.classes is not None and not set(use.classes) <= set(result.classes):
        return result  # a fault of the classes, which the caller tells; the rest would only follow from it
    _judge(places.annotations, places.name, result, findings)
    if images is not None:
        _look_for_images(places.images, images, settings, result, allowed, findings)
    return result


def _check_stored(
    database: Database,
    settings: Settings,
    version: Version,
    storage: Storage,
    use: Use,
    allowed: int,
    findings: Findings,
) -> tuple[dict[str, Any], datasets.CheckResult | None]:
    values = {"annotations": annotations_of(version.text, use.split), "images": version.images}
    images: Path | None = None
    try:
        images = locate_folder(version.images, settings.data_roots)
    except PathRefused as refused:
        detail = f"the images of {version.name} are not where they were imported from: {refused.detail}"
        remedy = "Put them back, or import the data set again from where it lies now: POST /datasets."
        findings.add(named_data.POINTER, detail, remedy)
    name = f"{use.split}.json"
    try:
        stored = named_data.stored(version, use.split, storage)
        result = datasets.examine_stored(database, stored, settings.coco_check_seconds, use)
    except datasets.CheckFailed as failed:
        findings.add(named_data.POINTER, f"{version.name}: {name} {failed.detail}", failed.remedy)
        return values, None
    places = _Places(named_data.POINTER, f"{version.name}: {name}", named_data.POINTER)
    return values, _judged(places, images, settings, result, use, allowed, findings)


def _judge(pointer: str, name: str, result: datasets.CheckResult, findings: Findings) -> None:
    """Tell why the file cannot be used so, and what of it is dropped, clipped or left out."""
    assert result.use is not None
    if result.use["problem"]:
        findings.add(pointer, f"{name}: {result.use['problem']}", result.use["remedy"])
    for remark in result.use["remarks"]:
        findings.warnings.append(DataWarning(pointer=pointer, **{**remark, "detail": f"{name}: {remark['detail']}"}))


def _look_for_images(
    pointer: str, folder: Path, settings: Settings, result: datasets.CheckResult, allowed: int, findings: Findings
) -> None:
    """A sample of the images that are read. The training looks for all of them."""
    assert result.use is not None
    roots = [real_path(root) for root in settings.data_roots]
    found = look(folder, result.use["sample"], roots, seconds=LOOK_SECONDS)
    sampled = f"; a sample of all {result.use['images']} was looked for" if found.looked < result.use["images"] else ""
    if found.outside:
        findings.add(pointer, explain_outside(found.outside, found.looked) + sampled, OUTSIDE_REMEDY)
    if not found.missing:
        return
    missing = explain(folder, found.missing, found.looked, roots, seconds=LOOK_SECONDS)
    if len(found.missing) > allowed:
        findings.add(pointer, missing.detail + sampled, missing.remedy)
        return
    findings.warnings.append(
        DataWarning(
            pointer=pointer,
            kind="missing_image",
            count=len(found.missing),
            detail=missing.detail + sampled,
            of="images",
            remedy=missing.remedy,
        )
    )


def _coco_faults(pointer: str, name: str, result: datasets.CheckResult) -> list[Fault]:
    faults = [
        Fault(pointer=pointer, detail=f"{name}: {fault['where']} {fault['detail']}", remedy=fault["remedy"])
        if fault["where"]
        else Fault(pointer=pointer, detail=f"{name}: {fault['detail']}", remedy=fault["remedy"])
        for fault in result.faults
    ]
    if result.fault_count > len(faults):
        more = f"{name}: and {result.fault_count - len(faults)} more faults"
        faults.append(
            Fault(pointer=pointer, detail=more, remedy="Correct those that are listed; then the next ones are.")
        )
    return faults
