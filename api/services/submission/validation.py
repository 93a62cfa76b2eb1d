"""From a posted specification to the one that is stored: every default filled in, every path absolute.

The request's model has checked types, bounds and names already. Here is what needs the files and the database;
all faults are found before any is reported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from api.database import Database, Session
from api.errors import invalid
from api.services.submission import (
    backbone_init,
    datasets,
    evaluate_export,
    imports,
    named_data,
    splits,
    start,
    teacher_cache,
    unlabelled,
    weights,
)
from api.services.submission.findings import Findings, at_their_origin
from api.services.submission.roots import PathRefused
from api.services.submission.shared import Shared
from api.settings import Settings
from crosskd.spec.coco.categories import listed, other_categories
from crosskd.spec.coco.survey import Use
from crosskd.spec.config import (
    AugmentConfig,
    DataConfig,
    DistillConfig,
    FileRef,
    LoaderConfig,
    ModelConfig,
    Section,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    UnlabelledConfig,
)
from crosskd.spec.data.import_config import ImportConfig
from crosskd.spec.distill.pairing import resolve_pair
from wire.errors import Fault, MissingField
from wire.faults import faults as as_faults
from wire.jobs import DataWarning, JobCreate, Spec
from wire.kinds import known_or_inferred

SectionT = TypeVar("SectionT", bound=Section)


def resolve(session: Session, settings: Settings, create: JobCreate, shared: Shared) -> tuple[Spec, list[DataWarning]]:
    """The specification to store, and what was found in its data that stops nothing.

    `shared` is for several of one request. It reads files, a large one for seconds. Therefore it must come before the
    request's first statement: it begins no transaction of `session`, and opens short ones of its own.

    Raises:
        InvalidSpec: with every fault.
        Unavailable: too many annotation files are being checked.
    """
    if isinstance(create.spec, TrainConfig):
        return _training(session.database, settings, create.kind, create.spec, shared)
    findings = Findings()
    resolved: Spec | None
    if isinstance(create.spec, ImportConfig):
        resolved = imports.resolve(settings.data_roots, create.name, create.spec, findings)
    else:
        resolved = evaluate_export.resolve(session.database, settings, create.spec, findings, shared)
    if resolved is None or findings.faults:
        raise invalid("spec", findings.faults)
    return resolved, findings.warnings


def _training(
    database: Database, settings: Settings, kind: str, config: TrainConfig, shared: Shared
) -> tuple[TrainConfig, list[DataWarning]]:
    roots = settings.data_roots
    findings = Findings(_kind(kind, config.teacher))
    faults = findings.faults
    as_is = config.evaluation.as_is
    data, train = _data(database, settings, config.data, config.augment, config.loader, findings, shared, as_is=as_is)
    student = _student(roots, config.student, faults)
    if config.student.init is not None:
        student["init"] = start.check(database, roots, config.student, faults)
    update: dict[str, Any] = {"data": data, "student": student}
    if config.teacher is not None:
        classes = data["classes"] or config.data.classes
        teacher = weights.resolve(database, roots, config.teacher, classes, faults, shared.planned)
        update["teacher"] = teacher
        update["distill"] = _distill(config, teacher or config.teacher, faults)
        teacher_cache.check(config, update, train, findings)
    if faults:
        raise invalid("spec", faults)
    return _completed(config, update), findings.warnings


def further_faults(database: Database, settings: Settings, body: Any, shared: Shared) -> list[Fault]:
    """What the files and the database say of a body that its model has refused.

    Every section that is well-formed by itself is checked as `resolve` would, so that a client hears of all faults
    at once and not of one round after the other.
    """
    spec = body.get("spec") if isinstance(body, dict) else None
    if not isinstance(spec, dict):
        return []
    kind = known_or_inferred(body.get("kind"), spec)
    if kind is None:
        return []
    if kind == "import":
        return []  # each of its fields is told by its model, and its paths by the next try
    if kind in ("evaluate", "export"):
        return evaluate_export.further_faults(database, settings, kind, spec, shared)
    data = _well_formed(DataConfig, spec.get("data"))
    student = _well_formed(StudentConfig, spec.get("student"))
    teacher = _well_formed(TeacherConfig, spec.get("teacher"))
    distill = _well_formed(DistillConfig, spec.get("distill") or {})
    loader = _well_formed(LoaderConfig, spec.get("loader", {})) or LoaderConfig()
    augment = _well_formed(AugmentConfig, spec.get("augment", {})) or AugmentConfig()
    findings = Findings(_kind(kind, spec.get("teacher")))
    faults = findings.faults
    classes = None
    if data is not None:
        values, _ = _data(database, settings, data, augment, loader, findings, shared)
        classes = values["classes"] or data.classes
    if student is not None:
        _student(settings.data_roots, student, faults)
        if student.init is not None:
            start.check(database, settings.data_roots, student, faults)
    if teacher is not None:
        known = weights.resolve(database, settings.data_roots, teacher, classes, faults, shared.planned)
        teacher = known or teacher
        if student is not None and distill is not None and teacher.model is not None:
            _joined(student, teacher.model, distill, faults)
    return faults


def _well_formed(section: type[SectionT], values: Any) -> SectionT | None:
    try:
        return section.model_validate(values)
    except ValidationError:
        return None  # its own faults are told already


def _kind(kind: Any, teacher: Any) -> list[Fault]:
    if kind == "distill" and teacher is None:
        remedy = 'Add `spec.teacher.weights`: {"job": ID} or {"file": PATH}.'
        return [MissingField(pointer="/spec/teacher", detail="a distil job needs a teacher's weights", remedy=remedy)]
    if kind == "train" and teacher is not None:
        remedy = "Use kind `distill`, or remove `spec.teacher`."
        return [Fault(pointer="/spec/teacher", detail="a train job has no teacher", remedy=remedy)]
    return []


def _completed(config: TrainConfig, update: dict[str, Any]) -> TrainConfig:
    """`config` with what was resolved and with the defaults that depend on other fields."""
    evaluation, augment = config.evaluation, config.augment
    update["evaluation"] = {**evaluation.model_dump(), "batch_size": config.evaluation_batch}
    short_edge = augment.val_short_edge or max(augment.short_edges)
    update["augment"] = {**augment.model_dump(), "val_short_edge": short_edge}
    try:
        return TrainConfig.model_validate({**config.model_dump(), **update})
    except ValidationError as error:  # the classes of a file can break the bounds of `data.classes`
        errors = [{**complaint, "loc": ("body", "spec", *complaint["loc"])} for complaint in error.errors()]
        listed, total = as_faults(errors, {"spec": config.model_dump()})
        origins = {"/spec/data/classes": "/spec/data/train/annotations"} if config.data.classes is None else {}
        raise invalid("spec", at_their_origin(listed, origins), total) from None


# --- data ------------------------------------------------------------------------------------------------------------


def _data(
    database: Database,
    settings: Settings,
    config: DataConfig,
    augment: AugmentConfig,
    loader: LoaderConfig,
    findings: Findings,
    shared: Shared,
    *,
    as_is: bool = False,
) -> tuple[dict[str, Any], datasets.CheckResult | None]:
    """The data section with absolute paths and, where the files are in order, classes; what is trained on."""
    data = config.model_dump()
    train_use = Use("train", config.classes, augment.min_side, loader.drop_empty, loader.min_image_side)
    val_use, allowed = Use("val", config.classes, as_is=as_is), config.max_corrupt_images
    checked: dict[str, datasets.CheckResult | None] = {"train": None, "val": None}
    source = None
    if config.dataset is not None:
        version = shared.once(f"dataset {config.dataset}", findings, partial(named_data.find, database, config.dataset))
        if version is None:
            return data, None
        source, data["dataset"] = (version, shared.storage), version.text
        for name, given in (("train", config.train), ("val", config.val)):
            named_data.judge_files(version, given, name, config.dataset, findings)
    for split, use in ((config.train, train_use), (config.val, val_use)):
        check = partial(splits.check, database, settings, split, use, allowed, source=source)
        data[use.split], checked[use.split] = shared.split(split, use, allowed, findings, check)
    if config.unlabelled is not None:
        data["unlabelled"] = _unlabelled(settings, config.unlabelled, data["val"], findings, shared)
    train, val = checked["train"], checked["val"]
    data["classes"] = _classes(config.classes, train, val, findings.faults)
    return data, train


def _unlabelled(
    settings: Settings, section: UnlabelledConfig, val: dict[str, Any], findings: Findings, shared: Shared
) -> dict[str, Any]:
    key = json.dumps([section.model_dump(), val["images"]], sort_keys=True)
    return shared.once(key, findings, partial(unlabelled.check, settings, section, Path(val["images"])))


def _classes(
    given: list[str] | None, train: datasets.CheckResult | None, val: datasets.CheckResult | None, faults: list[Fault]
) -> list[str] | None:
    """The classes in label order: as given, or the training file's categories by ascending id."""
    if given is not None:
        for split, result in {"train": train, "val": val}.items():
            if result is not None and (missing := [name for name in given if name not in result.classes]):
                detail = f"the {split} annotations have no category {listed(missing)}"
                remedy = f"Their categories are: {listed(result.classes)}."
                faults.append(Fault(pointer="/spec/data/classes", detail=detail, remedy=remedy))
        return given
    if train is None:
        return None
    if val is not None and (fault := other_categories(train.classes, val.classes)) is not None:
        faults.append(Fault(pointer="/spec/data/val/annotations", detail=fault.detail, remedy=fault.remedy))
    return train.classes


# --- models ----------------------------------------------------------------------------------------------------------


def _student(roots: Sequence[Path], student: ModelConfig, faults: list[Fault]) -> dict[str, Any]:
    values = student.model_dump()
    init = student.backbone.init
    if isinstance(init, FileRef):
        pointer = "/spec/student/backbone/init/file"
        try:
            path, header = weights.look_at(init.file, roots)
            values["backbone"]["init"] = {"file": str(path)}
            if (misfit := backbone_init.misfit(student.backbone, header, path.name, pointer)) is not None:
                faults.append(misfit)
        except (PathRefused, weights.NotWeights) as refused:
            faults.append(Fault(pointer=pointer, detail=refused.detail, remedy=refused.remedy))
    return values


def _distill(config: TrainConfig, teacher: TeacherConfig, faults: list[Fault]) -> dict[str, Any]:
    """The distillation section with its cut, after checking that the two models can be joined there."""
    distill = config.distill or DistillConfig()
    if teacher.model is None:
        return distill.model_dump()
    return _joined(config.student, teacher.model, distill, faults)


def _joined(student: ModelConfig, teacher: ModelConfig, distill: DistillConfig, faults: list[Fault]) -> dict[str, Any]:
    """The values of `distill` with what depends on the pair filled in; what keeps the two apart joins `faults`."""
    resolved, misfits = resolve_pair(distill, student, teacher)
    faults.extend(Fault(pointer=f"/spec{misfit.where}", detail=misfit.what, remedy=misfit.remedy) for misfit in misfits)
    return resolved.model_dump()
