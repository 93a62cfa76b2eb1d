"""Jobs on finished weights (`evaluate`, `export`): from a posted specification to the one that is stored.

The weights are named as a teacher's are, and tell the same: `weights.source_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from api.database import Database
from api.services.submission import datasets, named_data, splits
from api.services.submission.findings import Findings, at_their_origin
from api.services.submission.roots import PathRefused, locate_folder
from api.services.submission.shared import Shared
from api.services.submission.weights import (
    Source,
    another_model,
    shape_mismatches,
    source_of,
    without_init,
)
from api.settings import Settings
from crosskd.spec.coco.categories import listed
from crosskd.spec.coco.survey import Use
from crosskd.spec.config import (
    EvaluateConfig,
    EvaluationData,
    ExportConfig,
    FileRef,
    JobRef,
    ModelConfig,
    PostprocessConfig,
    ScaleConfig,
    Section,
)
from crosskd.spec.evaluate_export import unexportable, untried, with_postprocess
from crosskd.spec.unused_classes import used
from crosskd.spec.weights.shapes import expected_shapes
from wire.errors import Fault, MissingField
from wire.faults import faults as as_faults

WEIGHTS = "/spec/weights"


@dataclass(frozen=True)
class _Sections:
    """The sections of a specification; None: left out, or ill-formed, which is told already."""

    weights: JobRef | FileRef | None = None
    model: ModelConfig | None = None
    scale: ScaleConfig | None = None
    postprocess: PostprocessConfig | None = None
    classes: list[str] | None = None
    data: EvaluationData | None = None
    as_is: bool | None = None
    images: str | None = None


_SECTIONS: dict[str, TypeAdapter[Any]] = {
    "weights": TypeAdapter(JobRef | FileRef),
    "model": TypeAdapter(ModelConfig),
    "scale": TypeAdapter(ScaleConfig),
    "postprocess": TypeAdapter(PostprocessConfig),
    "classes": TypeAdapter(list[str]),
    "data": TypeAdapter(EvaluationData),
    "as_is": TypeAdapter(bool),
    "images": TypeAdapter(str),
}


def resolve(
    database: Database, settings: Settings, config: EvaluateConfig | ExportConfig, findings: Findings, shared: Shared
) -> EvaluateConfig | ExportConfig | None:
    """The specification with every default filled in; None after adding why not to `findings`.

    Raises `Unavailable`: too many annotation files are being checked.
    """
    asked = _Sections(**{field.name: getattr(config, field.name, None) for field in fields(_Sections)})
    update = _resolved(database, settings, asked, isinstance(config, ExportConfig), findings, shared)
    if findings.faults:
        return None
    try:
        return type(config).model_validate(config.model_dump() | update)
    except ValidationError as error:  # the classes of a file can break the bounds of those of a specification
        errors = [{**complaint, "loc": ("body", "spec", *complaint["loc"])} for complaint in error.errors()]
        listed = as_faults(errors, {"spec": config.model_dump()}).listed
        findings.faults.extend(at_their_origin(listed, _origins(config)))
        return None


def notes(spec: Section) -> list[str]:
    """What is good to know of a resolved `spec`: whether its graph can be written is not known of every model."""
    if not isinstance(spec, ExportConfig) or spec.model is None:
        return []
    return list(filter(None, [untried(spec.model)]))


def _origins(config: EvaluateConfig | ExportConfig) -> dict[str, str]:
    """Where each field was filled in from that was not sent."""
    weights = f"{WEIGHTS}/{'job' if isinstance(config.weights, JobRef) else 'file'}"
    names = ("model", "scale", "postprocess", "classes")
    origins = {f"/spec/{name}": weights for name in names if getattr(config, name, None) is None}
    if isinstance(config, EvaluateConfig) and config.data.classes is None:
        origins["/spec/data/classes"] = "/spec/data/val/annotations"
    return origins


def further_faults(
    database: Database, settings: Settings, kind: str, spec: dict[str, Any], shared: Shared
) -> list[Fault]:
    """What the files and the database say of a specification that its model has refused."""
    findings = Findings()
    asked = _Sections(**{name: _well_formed(section, spec.get(name)) for name, section in _SECTIONS.items()})
    _resolved(database, settings, asked, kind == "export", findings, shared)
    return findings.faults


def _well_formed(section: TypeAdapter[Any], values: Any) -> Any:
    try:
        return section.validate_python(values)
    except ValidationError:
        return None


def _resolved(
    database: Database, settings: Settings, asked: _Sections, exports: bool, findings: Findings, shared: Shared
) -> dict[str, Any]:
    faults = findings.faults
    update: dict[str, Any] = {}
    result, source = None, None
    if asked.data is not None:
        update["data"], result = _data(database, settings, asked.data, bool(asked.as_is), findings, shared)
    if asked.weights is not None:
        source = source_of(database, settings.data_roots, asked.weights, faults, WEIGHTS)
    if exports and (asked.images is not None or source is not None):
        update["images"] = _images(settings, asked.images, source, faults)
    if source is None:
        return update
    if exports:
        update["classes"] = classes = _export_classes(asked.classes, source, faults)
    else:
        classes = _evaluation_classes(asked.data, result, source, faults)
        if asked.data is not None:
            update["data"]["classes"] = classes
    update["weights"] = source.weights.model_dump()
    update["scale"] = (asked.scale or source.scale or ScaleConfig()).model_dump()
    model = _model(asked, source, classes, faults)
    if exports and model is not None and (reason := unexportable(model)):
        faults.append(
            Fault(pointer=_pointer(source), detail=reason, remedy="Use weights of another detector or backbone.")
        )
    if model is not None:
        update |= {"model": model.model_dump(), "postprocess": model.postprocess.model_dump()}
    return update


def _data(
    database: Database, settings: Settings, data: EvaluationData, as_is: bool, findings: Findings, shared: Shared
) -> tuple[dict[str, Any], datasets.CheckResult | None]:
    """The data section with absolute paths, and what its file holds; None where that is at fault."""
    values, source = data.model_dump(), None
    if data.dataset is not None:
        if (version := named_data.find(database, data.dataset, findings)) is None:
            return values, None
        source, values["dataset"] = (version, shared.storage), version.text
        named_data.judge_files(version, data.val, "val", data.dataset, findings)
    use, allowed = Use("val", data.classes, as_is=as_is), data.max_corrupt_images
    values["val"], result = splits.check(database, settings, data.val, use, allowed, findings, source)
    return values, result


def _model(asked: _Sections, source: Source, classes: list[str] | None, faults: list[Fault]) -> ModelConfig | None:
    """The model that the weights are of, with the postprocessing that is asked for."""
    model = asked.model or source.model
    if others := another_model(source, asked.model, _pointer(source), "model"):
        faults.extend(others)
        return None
    if model is None:
        detail = "the weights file does not say which model it is for"
        remedy = "Add `model`, a section like a training's `student`."
        faults.append(MissingField(pointer="/spec/model", detail=detail, remedy=remedy))
        return None
    if source.shapes is not None and classes is not None:
        expected = expected_shapes(model, len(source.classes or classes))
        faults.extend(shape_mismatches(source.shapes, expected, _pointer(source), "model"))
    try:
        return without_init(with_postprocess(model, asked.postprocess))
    except ValidationError as error:
        detail = "; ".join(complaint["msg"].removeprefix("Value error, ") for complaint in error.errors())
        faults.append(Fault(pointer="/spec/postprocess", detail=detail, remedy="Leave that knob out."))
        return None


def _evaluation_classes(
    data: EvaluationData | None, result: datasets.CheckResult | None, source: Source, faults: list[Fault]
) -> list[str] | None:
    """In label order: the model's that stand for something, which must be those of the data. Without any, the
    categories by ascending id."""
    given = data.classes if data is not None else None
    wanted = given or (result.classes if result is not None else None)
    if result is not None and given and (missing := [name for name in given if name not in result.classes]):
        detail = f"the val annotations have no category {listed(missing)}"
        remedy = f"Their categories are: {listed(result.classes)}."
        faults.append(Fault(pointer="/spec/data/classes", detail=detail, remedy=remedy))
    if source.classes is None:
        return wanted
    known = used(source.classes, wanted)
    if wanted is not None and (differing := sorted(set(wanted) ^ set(known))):
        pointer = "/spec/data/classes" if given else "/spec/data/val/annotations"
        detail = f"model and data have other classes: {listed(differing)} in one of them alone"
        remedy = f"Give `data.classes` the model's: {listed(known)}."
        faults.append(Fault(pointer=pointer, detail=detail, remedy=remedy))
    return known


def _export_classes(given: Sequence[str] | None, source: Source, faults: list[Fault]) -> list[str] | None:
    known = source.classes
    if given is not None and known is not None and list(given) not in (known, used(known)):
        detail = f"the weights were trained with other classes: {listed(known)}"
        remedy = "Leave `classes` out: the weights name their classes."
        faults.append(Fault(pointer="/spec/classes", detail=detail, remedy=remedy))
    if given is None and known is None:
        detail = "the weights file does not say its classes"
        faults.append(
            MissingField(pointer="/spec/classes", detail=detail, remedy="Add `classes`, the names in label order.")
        )
    return list(given) if given is not None else (known and used(known))


def _images(settings: Settings, asked: str | None, source: Source | None, faults: list[Fault]) -> str | None:
    folder = asked or (source.images if source else None)
    if folder is None:
        detail = "an export is checked on real images, and the weights file does not say where there are any"
        faults.append(
            MissingField(pointer="/spec/images", detail=detail, remedy="Add `images`, a folder in the data roots.")
        )
        return None
    try:
        return str(locate_folder(folder, settings.data_roots))
    except PathRefused as refused:
        pointer = "/spec/images" if asked or source is None else _pointer(source)
        faults.append(Fault(pointer=pointer, detail=refused.detail, remedy=refused.remedy))
        return None


def _pointer(source: Source) -> str:
    return f"{WEIGHTS}/{'job' if isinstance(source.weights, JobRef) else 'file'}"
