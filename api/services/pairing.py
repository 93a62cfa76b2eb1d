"""Whether a student can learn from a teacher: what the core's distiller asks of the two, before a worker is taken."""

from __future__ import annotations

from typing import Any

from api.schemas.errors import Fault
from api.schemas.spec import DETECTORS, DistillConfig, ModelConfig


def join(student: ModelConfig, teacher: ModelConfig, distill: DistillConfig, faults: list[Fault]) -> dict[str, Any]:
    """The values of `distill` with the cut filled in; what keeps the two apart is added to `faults`.

    The cut that is published for the detector is the default, as far as both heads reach.
    """
    values = distill.model_dump()
    depth = min(student.head.depth, teacher.head.depth)
    if distill.crosskd is not None and distill.crosskd.cut is None:
        values["crosskd"]["cut"] = min(DETECTORS[student.detector].cut, depth)
    faults.extend(_facts(student, teacher))
    if distill.pkd is not None and student.neck.channels != teacher.neck.channels:
        remedy = f"Use {teacher.neck.channels}, or leave `distill.pkd` out."
        faults.append(_channels("neck", "PKD compares the pyramids' maps", student, teacher, remedy))
    if distill.crosskd is None:
        return values
    cut = values["crosskd"]["cut"]
    if cut > depth:
        heads = f"{student.head.depth} convolutions in the student's, {teacher.head.depth} in the teacher's"
        detail = f"the cut {cut} lies behind the shorter head ({heads})"
        faults.append(Fault(pointer="/spec/distill/crosskd/cut", detail=detail, remedy=f"Use a cut of 0 to {depth}."))
        return values
    section = "head" if cut else "neck"
    theirs = getattr(teacher, section).channels
    if getattr(student, section).channels != theirs:
        what = f"the teacher's head reads the student's maps behind convolution {cut}"
        faults.append(_channels(section, what, student, teacher, f"Use {theirs}."))
    return values


def _facts(student: ModelConfig, teacher: ModelConfig) -> list[Fault]:
    """What must be equal for every anchor of the one to be the same anchor of the other."""
    facts = {
        "detector": (student.detector, teacher.detector),
        "strides": (student.strides, teacher.strides),
        "head/reg_max": (student.head.reg_max, teacher.head.reg_max),
        # Both read the same tensor: an image is normalised once.
        "pixels": (student.pixels.model_dump(), teacher.pixels.model_dump()),
    }
    return [
        Fault(
            pointer=f"/spec/student/{field}",
            detail=f"student and teacher differ in {field.rpartition('/')[2]}: {ours} and {theirs}",
            remedy=f"Use {theirs}, or another teacher.",
        )
        for field, (ours, theirs) in facts.items()
        if ours != theirs
    ]


def _channels(section: str, why: str, student: ModelConfig, teacher: ModelConfig, remedy: str) -> Fault:
    ours, theirs = getattr(student, section).channels, getattr(teacher, section).channels
    detail = f"{why}: the student's have {ours} channels, the teacher's {theirs}"
    return Fault(pointer=f"/spec/student/{section}/channels", detail=detail, remedy=remedy)
