"""What is good to know of the weights that a resolved specification names, in words: nothing of it refuses a job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from api.database import Database
from api.services.submission import start
from api.services.submission.weights import Source, source_of
from crosskd.spec.config import EvaluateConfig, ExportConfig, FileRef, JobRef, Section, TrainConfig


def notes(database: Database, roots: Sequence[Path], spec: Section) -> list[str]:
    """Each begins with the field that it is about: what a folder says besides, what a student takes, other images."""
    named = _named(spec)
    sources = {where: source_of(database, roots, weights, [], "") for where, weights in named.items()}
    told = []
    for where, source in sources.items():
        found = [] if source is None else [*_of_folder(source), *_of_training(spec, where, source, sources)]
        told += [f"{where}: {note}" for note in found]
    return told


def _named(spec: Section) -> dict[str, JobRef | FileRef]:
    if isinstance(spec, EvaluateConfig | ExportConfig):
        return {"weights": spec.weights}
    if not isinstance(spec, TrainConfig):
        return {}
    teacher = {} if spec.teacher is None else {"teacher.weights": spec.teacher.weights}
    return teacher if spec.student.init is None else {**teacher, "student.init": spec.student.init}


def _of_folder(source: Source) -> list[str]:
    return [] if source.folder is None else source.folder.told.notes


def _of_training(spec: Section, where: str, source: Source, sources: dict[str, Source | None]) -> list[str]:
    if not isinstance(spec, TrainConfig):
        return []
    if where == "student.init":
        return start.notes(source, spec, sources.get("teacher.weights"))
    return start.teacher_notes(source, spec)
