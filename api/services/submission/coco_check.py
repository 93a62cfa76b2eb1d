"""Checks a COCO file in bounded time and memory: `python -m api.services.submission.coco_check FD SECONDS`

A process of its own, so that a 450 MB file costs the API neither its interpreter nor its memory. It is given the file
open, as descriptor FD, since a path may lead elsewhere a moment later. How the file is used comes as JSON on its
standard input (`Use`), for a list of classes can be longer than an argument may be. It prints one JSON object, a
`Report`. It imports the standard library and crosskd/spec alone, which holds the rules of the training too: starting it
takes milliseconds.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Iterable
from typing import BinaryIO, TypedDict

from crosskd.spec.coco.fields import CocoFault
from crosskd.spec.coco.image_files import sample
from crosskd.spec.coco.instances import Instances, read_instances
from crosskd.spec.coco.survey import RemarkValues, Use, survey

VERSION = 5  # of the rules and messages; an older result in the cache is not used
MOST_SIZES = 500  # that are told
MAX_MEMORY = 1 << 30  # bytes of address space; COCO's own 450 MB file needs a third


class UseReport(TypedDict):
    """What one use takes of the file: `boxes` that train, and `images` of which `sample` holds some file names.

    `problem` says why the file cannot be used so, and `remedy` what to do; both are empty if it can.
    """

    boxes: int
    images: int
    sample: list[str]
    sizes: list[tuple[int, int]] | None  # of its images, each (height, width) once; None: there are more than a few
    remarks: list[RemarkValues]
    problem: str
    remedy: str


class Report(TypedDict):
    """`faults` are the first of `fault_count`; `classes` the category names by ascending id."""

    version: int
    classes: list[str]
    images: int
    annotations: int
    faults: list[CocoFault]
    fault_count: int
    use: UseReport | None  # None: with faults nothing can be said


def check(file: BinaryIO, use: Use) -> Report:
    """Walks a file once."""
    found = read_instances(file)
    report = Report(
        version=VERSION,
        classes=[category.name for category in found.categories.values()],
        images=len(found.positions),
        annotations=found.annotation_count,
        faults=found.faults.first,
        fault_count=found.faults.count,
        use=None,
    )
    if not found.faults.count:
        taken = survey(found, use)
        report["use"] = UseReport(
            boxes=taken.boxes,
            images=len(taken.images),
            sample=sample([found.names[place] for place in taken.images]),
            sizes=_sizes(found, taken.images),
            remarks=[remark.values() for remark in taken.remarks],
            problem=taken.problem,
            remedy=taken.remedy,
        )
    return report


def _sizes(found: Instances, places: Iterable[int]) -> list[tuple[int, int]] | None:
    sizes = {(found.sizes[2 * place], found.sizes[2 * place + 1]) for place in places}
    return sorted(sizes) if len(sizes) <= MOST_SIZES else None


def main(descriptor: str, seconds: str) -> None:
    # Belt and braces: the API kills a check that is too slow; these hold when the API itself is gone.
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    cpu = math.ceil(float(seconds)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    os.nice(5)
    use = Use(**json.load(sys.stdin))
    with open(int(descriptor), "rb", closefd=False) as file:
        report = check(file, use)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
