"""One split of a data set as a specification names it: an annotation file and the folder of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.database import Database
from api.services.submission import datasets
from api.services.submission.roots import PathRefused, locate_folder, open_file
from api.settings import Settings
from crosskd.spec.config import CocoSplit
from wire.errors import Fault

LISTED = 10  # class names that a fault spells out


def check(
    database: Database, settings: Settings, name: str, split: CocoSplit, faults: list[Fault]
) -> tuple[dict[str, Any], datasets.CheckResult | None]:
    """`/spec/data/{name}` with absolute paths, and what its file holds; None where the file is at fault.

    Raises `Unavailable`: too many annotation files are being checked.
    """
    pointer, values = f"/spec/data/{name}", split.model_dump()
    try:
        values["images"] = str(locate_folder(split.images, settings.data_roots))
    except PathRefused as refused:
        faults.append(Fault(pointer=f"{pointer}/images", detail=refused.detail, remedy=refused.remedy))
    try:
        with open_file(split.annotations, settings.data_roots) as file:
            annotations = file.path
            values["annotations"] = str(annotations)
            result = datasets.examine(database, file, settings.coco_check_seconds)
    except PathRefused as refused:
        faults.append(Fault(pointer=f"{pointer}/annotations", detail=refused.detail, remedy=refused.remedy))
    except datasets.CheckFailed as failed:
        detail = f"{annotations.name} {failed.detail}"
        faults.append(Fault(pointer=f"{pointer}/annotations", detail=detail, remedy=failed.remedy))
    else:
        faults.extend(_coco_faults(f"{pointer}/annotations", annotations.name, result))
        return values, None if result.fault_count else result
    return values, None


def listed(names: Sequence[str]) -> str:
    """The first of the names, quoted, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more


def _coco_faults(pointer: str, name: str, result: datasets.CheckResult) -> list[Fault]:
    details = [f"{fault['where']} {fault['detail']}".strip() for fault in result.faults]
    if result.fault_count > len(details):
        details.append(f"and {result.fault_count - len(details)} more faults")
    return [Fault(pointer=pointer, detail=f"{name}: {detail}", remedy="Mend the file.") for detail in details]
