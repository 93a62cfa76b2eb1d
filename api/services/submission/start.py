"""`student.init`: whether a student can begin with a detector's weights, and what it would take of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from api.database import Database
from api.services.submission.weights import Source, source_of
from crosskd.spec.config import StudentConfig, TrainConfig
from crosskd.spec.evaluate_export import image_settings
from crosskd.spec.weights.shapes import expected_shapes
from crosskd.spec.weights.start import differences_text, image_differences, misfits, plan_start
from wire.errors import Fault

POINTER = "/spec/student/init"


def check(
    database: Database, roots: Sequence[Path], student: StudentConfig, faults: list[Fault]
) -> dict[str, Any] | None:
    """The weights with their absolute path; None after adding to `faults` why they cannot be begun with.

    What a file does not say of itself is left to the worker, which recognises MMDetection's and torchvision's.
    """
    assert student.init is not None
    source = source_of(database, roots, student.init, faults, POINTER)
    if source is None:
        return None
    if source.model is not None:
        for pointer, what, remedy in misfits(student, source.model):
            faults.append(Fault(pointer=f"/spec/student{pointer}", detail=what, remedy=remedy))
    return source.weights.model_dump()


def notes(source: Source, spec: TrainConfig, teacher: Source | None) -> list[str]:
    """What a resolved `spec` takes of the weights `source` that its student begins with, in words."""
    told = [_text(spec, source)]
    if differences := image_differences(_image_settings(spec, teacher), source.image_settings or {}):
        told.append(differences_text("the detector", differences))
    return told


def teacher_notes(source: Source, spec: TrainConfig) -> list[str]:
    """Where the images of the training are read otherwise than those of its teacher."""
    differences = image_differences(_image_settings(spec, None), source.image_settings or {})
    return [differences_text("the teacher", differences)] if differences else []


def _image_settings(spec: TrainConfig, teacher: Source | None) -> dict[str, Any]:
    """How the training will read its images, as far as its teacher leaves them to be known; {}: as the start's."""
    of_teacher = (teacher and teacher.image_settings) or {}
    given = {name: getattr(spec.augment, name) for name in (*image_settings({}), "keep_ratio")}
    return of_teacher | {name: value for name, value in given.items() if value is not None}


def _text(spec: TrainConfig, source: Source) -> str:
    classes = spec.data.classes or []
    if source.model is None:
        return "no header says which detector the file holds; the worker recognises it, and logs what it takes"
    given = source.shapes or expected_shapes(source.model, len(source.classes or []) or 1)
    wanted = expected_shapes(spec.student, len(classes))
    text = plan_start(spec.student, classes, wanted, source.model, source.classes, given).text()
    return text if "backbone" in text.partition(";")[0] else f"the whole backbone, {text}"
