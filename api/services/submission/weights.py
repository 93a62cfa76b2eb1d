"""The teacher of a distillation: what its weights are, and whether they fit what the specification says.

A teacher comes from another job, whose row says everything, also while that job is still on its way; or from a
safetensors file, whose header says its tensors and, if it is ours, its model and classes; or from a folder of
transformers, which says all of that too; or from a file that only torch can read, which the worker checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError
from sqlalchemy import select

from api.database import Database, Session
from api.models import ID, Artifact, Attempt, Job
from api.services.submission.roots import PathRefused, open_file
from api.services.submission.weights_folder import FoundFolder, look_at_folder
from crosskd.errors import WeightsError
from crosskd.spec.config import FileRef, JobRef, ModelConfig, ScaleConfig, StudentConfig, TeacherConfig
from crosskd.spec.detr.folder_contradictions import contradictions
from crosskd.spec.detr.names import ALONE, INSTEAD, is_library_checkpoint
from crosskd.spec.evaluate_export import OF_OTHER_PROJECTS, image_facts, image_settings, scale_of
from crosskd.spec.weights.file_kind import FORMAT, beginning_of
from crosskd.spec.weights.header import NotSafetensors, Shape, WeightsHeader, read_header
from crosskd.spec.weights.shapes import ExpectedShapes, expected_shapes
from crosskd.spec.weights.torchvision_names import INSTEAD as ANOTHER
from crosskd.spec.weights.torchvision_names import READ, Held, torchvision_detector
from crosskd.spec.weights.wrapped_names import unwrap
from wire.errors import Fault, MissingField

POINTER = "/spec/teacher"
LISTED = 10  # tensors that a fault names


@dataclass(frozen=True)
class Source:
    """What the weights themselves tell; None: they do not say."""

    weights: JobRef | FileRef
    model: ModelConfig | None = None
    classes: list[str] | None = None
    shapes: dict[str, Shape] | None = None
    scale: ScaleConfig | None = None  # at which they were evaluated
    images: str | None = None  # on which they were evaluated
    image_settings: dict[str, Any] | None = None  # how images were read and resized when they were trained
    held: Held | None = None  # of a file of torchvision's
    folder: FoundFolder | None = None  # of transformers


def resolve(
    database: Database,
    roots: Sequence[Path],
    teacher: TeacherConfig,
    classes: list[str] | None,
    faults: list[Fault],
    planned: Mapping[str, dict[str, Any]] | None = None,
) -> TeacherConfig | None:
    """The teacher with its model, classes and absolute path; None after adding why not to `faults`.

    `classes` are the student's, in label order; None where the data are at fault. `planned` are the specifications
    of jobs that the same request is about to make.
    """
    source: Source | None
    if isinstance(teacher.weights, JobRef) and planned and teacher.weights.job in planned:
        source = source_of_training(teacher.weights, planned[teacher.weights.job])
    else:
        source = source_of(database, roots, teacher.weights, faults, f"{POINTER}/weights")
    if source is None:
        return None
    model = teacher.model or source.model
    if others := another_model(source, teacher.model, _pointer(teacher), "teacher.model"):
        faults.extend(others)
        return None
    if model is None:
        faults.append(
            MissingField(
                pointer=f"{POINTER}/model",
                detail="the weights file does not say which model it is for",
                remedy="Add `teacher.model`, a section like `student`.",
            )
        )
        return None
    named = teacher.classes or source.classes
    before = len(faults)
    _check_classes(teacher, source, classes, faults)
    if source.shapes is not None and (known := named or classes) is not None:
        expected = expected_shapes(model, len(known))
        faults.extend(shape_mismatches(source.shapes, expected, _pointer(teacher), "teacher.model"))
        named = known
    if len(faults) > before:
        return None
    # A file that only torch reads may still name its classes: None leaves that to the worker.
    return TeacherConfig(weights=source.weights, model=without_init(model), classes=named)


def source_of(
    database: Database, roots: Sequence[Path], weights: JobRef | FileRef, faults: list[Fault], pointer: str
) -> Source | None:
    """What the weights that stand at `pointer` tell; None after adding to `faults` why they cannot be had."""
    if isinstance(weights, JobRef):
        return _from_job(database, weights, faults, pointer)
    return _from_file(roots, weights, faults, f"{pointer}/file")


def _from_job(database: Database, ref: JobRef, faults: list[Fault], pointer: str) -> Source | None:
    with database.reading() as session:
        job = session.get(Job, ref.job) if ID.fullmatch(ref.job) else None
        name = f"{ref.checkpoint}.safetensors"
        found = job and session.scalar(select(Artifact.id).where(Artifact.job_id == job.id, Artifact.name == name))
        settings = None if job is None else _settings_of(session, job)
    if job is None:
        detail = f"there is no job {ref.job!r}"
        fault = Fault(pointer=f"{pointer}/job", detail=detail, remedy="GET /jobs lists the jobs.")
    elif job.status in ("failed", "cancelled"):
        detail = f"job {job.id} is {job.status}, not succeeded"
        fault = Fault(pointer=f"{pointer}/job", detail=detail, remedy="Name a job that succeeded, or is on its way.")
    elif job.status != "succeeded" and "student" not in job.spec:
        detail = f"job {job.id} is of kind {job.kind}: it will have no weights of its own"
        fault = Fault(pointer=f"{pointer}/job", detail=detail, remedy="Name a job that trains a detector.")
    elif job.status == "succeeded" and found is None:
        fault = Fault(
            pointer=f"{pointer}/{'checkpoint' if 'checkpoint' in ref.model_fields_set else 'job'}",
            detail=f"job {job.id} has no {name}",
            remedy=f"GET /jobs/{job.id}/artifacts lists what it has.",
        )
    else:
        return replace(source_of_training(ref, job.spec), image_settings=settings)
    faults.append(fault)
    return None


def _settings_of(session: Session, job: Job) -> dict[str, Any] | None:
    """As the manifest of the job has them: what its specification leaves open, the worker has filled in."""
    of_job = select(Attempt.result).where(Attempt.job_id == job.id, Attempt.status == "succeeded")
    manifest = session.scalars(of_job.order_by(Attempt.number.desc()).limit(1)).first()
    try:
        return image_facts(manifest["config"]["augment"]) if manifest else None
    except (KeyError, TypeError, ValueError, AttributeError):  # a worker may hand in anything
        return None


def source_of_training(ref: JobRef, spec: dict[str, Any]) -> Source:
    """What a training's stored `spec` tells of the weights that it makes, or will make once it has succeeded."""
    model, data = StudentConfig.model_validate(spec["student"]).model, spec["data"]
    shapes = expected_shapes(model, len(data["classes"]))
    return Source(ref, model, data["classes"], shapes, scale_of(spec["augment"]), data["val"]["images"])


def _from_file(roots: Sequence[Path], ref: FileRef, faults: list[Fault], pointer: str) -> Source | None:
    try:
        if (folder := look_at_folder(ref.file, roots)) is not None:
            return _of_folder(folder)
        path, header = look_at(ref.file, roots)
    except WeightsError as error:
        faults.append(Fault(pointer=pointer, detail=error.message, remedy=error.remedy))
        return None
    except (PathRefused, NotWeights) as error:
        faults.append(Fault(pointer=pointer, detail=error.detail, remedy=error.remedy))
        return None
    weights = FileRef(file=str(path))
    if header is None:
        return Source(weights)
    if (classes := _classes_of(header, weights)) is not None and len(set(classes)) != len(classes):
        detail = f"{path.name} names a class twice"
        remedy = "Write it anew with names of their own: `crosskd convert IN OUT --to native --classes a,b,c`."
        faults.append(Fault(pointer=pointer, detail=detail, remedy=remedy))
        return None
    shapes = None if header.foreign else dict(header.shapes)
    return Source(
        weights,
        _model_of(header),
        classes,
        shapes,
        _scale_of(header),
        image_settings=_settings_in(header),
        held=torchvision_detector(header.shapes),
    )


def _of_folder(folder: FoundFolder) -> Source:
    told = folder.told
    return Source(
        FileRef(file=str(folder.path)),
        told.model,
        told.classes,
        dict(folder.shapes),
        scale_of(told.augment) if "short_edges" in told.augment else None,
        image_settings=image_facts(told.augment),
        folder=folder,
    )


class NotWeights(Exception):
    """A file that no worker could read as weights; `detail` and `remedy` are for the client."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


def look_at(file: str, roots: Sequence[Path]) -> tuple[Path, WeightsHeader | None]:
    """Where the weights `file` really lie, and their header with the names that the core will read; None in its place
    where only torch can read them.

    A safetensors file is one whatever its ending. Raises `PathRefused`, or `NotWeights`.
    """
    with open_file(file, roots) as weights:
        path = weights.path
        try:
            with weights.reader() as reader:
                return path, _header(reader, path)
        except OSError as error:
            raise NotWeights(
                f"{path.name} cannot be read ({error.strerror})", "Check the file and its rights."
            ) from None
        except NotSafetensors as error:
            raise NotWeights(
                f"{path.name} is no readable safetensors file: {error}", "Export the weights again, or copy them anew."
            ) from None


def _header(file: BinaryIO, path: Path) -> WeightsHeader | None:
    found = beginning_of(file, path.suffix)
    if found.form == "none":
        raise NotWeights(f"{path.name} is {found.what}", found.remedy)
    if found.form == "pytorch":
        return None
    header = read_header(file)
    if is_library_checkpoint(header.shapes):
        raise NotWeights(f"{path.name} is {ALONE}", INSTEAD)
    names = unwrap(header.shapes).names
    return WeightsHeader({plain: header.shapes[name] for name, plain in names.items()}, header.metadata)


def _model_of(header: WeightsHeader) -> ModelConfig | None:
    try:
        return ModelConfig.model_validate(header.json_metadata("model"))
    except (ValidationError, TypeError):  # none, or one of a version with other names, or no model at all
        return None


def _scale_of(header: WeightsHeader) -> ScaleConfig | None:
    recorded = header.json_metadata("augment")
    try:
        return scale_of(recorded) if isinstance(recorded, dict) else None
    except (ValueError, TypeError):
        return None


def _settings_in(header: WeightsHeader) -> dict[str, Any] | None:
    """How images were read when the weights were trained; None where the header says nothing that can be read."""
    if header.metadata.get("format") != FORMAT:
        return image_settings(OF_OTHER_PROJECTS) if header.foreign else image_settings({})
    recorded = header.json_metadata("augment") if "augment" in header.metadata else {}
    try:
        return image_facts(recorded) if isinstance(recorded, dict) else None
    except ValueError:
        return None


def _classes_of(header: WeightsHeader, weights: FileRef) -> list[str] | None:
    """None also for names that no specification could hold: such a file does not say its classes."""
    try:
        return TeacherConfig(weights=weights, classes=header.json_metadata("classes")).classes
    except ValidationError:
        return None


def _check_classes(teacher: TeacherConfig, source: Source, classes: list[str] | None, faults: list[Fault]) -> None:
    pointer = f"{POINTER}/classes"
    if teacher.classes and source.classes and teacher.classes != source.classes:
        faults.append(
            Fault(
                pointer=pointer,
                detail=f"the weights were trained with other classes: {_difference(teacher.classes, source.classes)}",
                remedy="Leave `teacher.classes` out: the weights name their classes.",
            )
        )
        return
    named = teacher.classes or source.classes
    if named is None or classes is None:
        return
    # More classes, or another order, are no fault: the worker narrows the teacher by name.
    if missing := [name for name in classes if name not in named]:
        faults.append(
            Fault(
                pointer=pointer if teacher.classes else _pointer(teacher),
                detail=f"the teacher does not know {_listed(missing)}; it was trained on {_listed(named)}",
                remedy="Use a teacher that knows every class of the data, or set `data.classes` to those it knows.",
            )
        )


def _difference(first: list[str], second: list[str]) -> str:
    if len(first) != len(second):
        return f"{len(first)} against {len(second)}"
    at = next(i for i, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
    return f"class {at} is {first[at]!r} here and {second[at]!r} there"


def another_model(source: Source, written: ModelConfig | None, pointer: str, section: str) -> list[Fault]:
    """What is wrong with weights at `pointer` that say of another model than the one `written` at `section`, if any."""
    folder = source.folder
    if folder is not None and written is not None:
        place = f"/spec/{section.replace('.', '/')}"
        found = contradictions(written, folder.told, folder.path.name, section)
        return [Fault(pointer=f"{place}{each.place}", detail=each.what, remedy=each.remedy) for each in found]
    other = _another_architecture(source, written or source.model, pointer, section)
    return [] if other is None else [other]


def _another_architecture(source: Source, model: ModelConfig | None, pointer: str, section: str) -> Fault | None:
    """What is wrong with a file of torchvision's whose names say that it is no `model`, which stands at `section`."""
    held = source.held
    if held is None or (model is not None and held.detector == model.detector):
        return None
    if held.other:
        return Fault(pointer=pointer, detail=f"the weights file is {held.other}; {READ}", remedy=ANOTHER)
    if model is None:
        return None
    return Fault(
        pointer=pointer,
        detail=f"by its tensors' names the weights file holds a {held.detector} of torchvision's; `{section}` is a "
        f"{model.detector}",
        remedy=f"Set `{section}.detector` to {held.detector}, or name other weights.",
    )


def shape_mismatches(found: dict[str, Shape], expected: ExpectedShapes, pointer: str, model: str) -> list[Fault]:
    """One fault each for missing, unexpected and differently shaped tensors. `model` is the section that says which."""
    wrong = [
        f"{name} is {list(found[name])}, not {list(expected[name])}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    kinds = {
        "misses tensors that the model has": [name for name in expected if name not in found and not _counter(name)],
        "has tensors that the model has not": [
            name for name in found if name not in expected and not expected.allows_unlisted(name)
        ],
        "has tensors of other shapes": wrong,
    }
    remedy = f"Set `{model}` to the model that the weights were trained as, or name other weights."
    return [
        Fault(pointer=pointer, detail=f"the weights file {what} ({len(names)}): {_listed(names)}", remedy=remedy)
        for what, names in kinds.items()
        if names
    ]


def _counter(name: str) -> bool:
    """Only batch norm without momentum reads these; older files leave them out, and loading allows it."""
    return name.endswith("num_batches_tracked")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(name[:200] for name in names[:LISTED]) + more


def _pointer(teacher: TeacherConfig) -> str:
    return f"{POINTER}/weights/{'job' if isinstance(teacher.weights, JobRef) else 'file'}"


def without_init(model: ModelConfig) -> ModelConfig:
    """The weights replace whatever its backbone began with: no stored spec should name that file again."""
    if not isinstance(model.backbone.init, FileRef):
        return model
    return model.model_copy(update={"backbone": model.backbone.model_copy(update={"init": "random"})})
