"""A student that begins with the weights of a whole detector (`student.init`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosskd.convert.classes import published_classes
from crosskd.convert.convert import Conversion, prepare
from crosskd.convert.load import listed
from crosskd.detectors.detector import Detector
from crosskd.errors import ConfigError, CrossKDError, WeightsError
from crosskd.spec.config import AugmentConfig, FileRef, JobRef
from crosskd.spec.weights.start import (
    CLASS_LAYER,
    Start,
    differences_text,
    image_differences,
    is_class_layer,
    misfits,
    plan_start,
)
from crosskd.weights.description import Description
from crosskd.weights.files import file_digest
from crosskd.weights.tensors import check_finite

log = logging.getLogger(__name__)

POINTER = "/student/init"


def begin(
    student: Detector,
    init: JobRef | FileRef,
    classes: Sequence[str],
    weights: Path | None,
    *,
    copy: bool = True,
    augment: AugmentConfig | None = None,
) -> dict[str, Any]:
    """Copy into `student`, which knows `classes`, all that it can take of the detector that `init` names.

    `weights` is the file behind a `JobRef`. Returned is what the manifest says of it. `copy=False` only tells: a
    resumed student has long moved on. `augment` says how the training reads its images; that the detector was trained
    on others is told. Raises `ConfigError` or `WeightsError` where it can begin with nothing.
    """
    path = init_file(init, weights)
    conversion = _read(path)
    if faults := misfits(student.config, conversion.model):
        raise ConfigError(
            "; ".join(what for _, what, _ in faults),
            where=f"/student{faults[0][0]}",
            remedy=" ".join(remedy for _, _, remedy in faults),
        )
    named = conversion.classes or _published(conversion)
    ours, theirs = student.state_dict(), conversion.state
    plan = plan_start(student.config, classes, _shapes(ours), conversion.model, named, _shapes(theirs))
    if copy:
        check_finite({name: theirs[name] for name in plan.taken}, path.name)
        _copy(student, ours, theirs, plan)
    for note in conversion.report.notes:
        log.info("%s: %s", path.name, note)
    log.info("the student %s with %s: %s", "begins" if copy else "began", path.name, plan.text())
    if not plan.classes["kept"]:
        log.warning("no class of the data has the name of one in %s: the class layer begins anew", path.name)
    told = {"sha256": file_digest(path), "detector": conversion.model.detector, **plan.manifest()}
    return told | _images(Description(path.name, conversion.extra, POINTER), augment)


def _images(description: Description, augment: AugmentConfig | None) -> dict[str, Any]:
    """How the detector's own images were read, and where those of this training are read otherwise."""
    theirs = description.image_settings()
    ours = {} if augment is None else {name: getattr(augment, name) for name in theirs}
    differences = image_differences(ours, theirs)
    if differences:
        log.warning("%s", differences_text(description.name, differences))
    return {"images": theirs, "image_differences": differences}


def init_file(init: JobRef | FileRef, weights: Path | None) -> Path:
    """Where the weights of `student.init` lie; `weights` is the file behind a `JobRef`. Raises `ConfigError`."""
    if weights is not None:
        return weights
    if isinstance(init, FileRef):
        return Path(init.file)
    raise ConfigError(
        f"the student begins with the weights of the job {init.job!r}, which are not at hand here",
        where=f"{POINTER}/job",
        remedy="Run this through the service, or name a file: `student.init.file`.",
    )


def _read(path: Path) -> Conversion:
    try:
        conversion = prepare(path, "native")
    except CrossKDError as error:
        error.where = error.where or POINTER
        raise
    report = conversion.report
    if report.missing:
        raise WeightsError(
            f"{path.name} is no whole {report.detector} with {report.backbone}: {listed('missing', report.missing)}",
            where=POINTER,
            remedy="Use a detector's weights; those of a backbone go to `student.backbone.init`.",
        )
    if report.unexpected:
        log.info("%s: left out, %s", path.name, listed("unexpected", report.unexpected))
    return conversion


def _published(conversion: Conversion) -> list[str] | None:
    """COCO's names, where the file names none and has as many classes as those that are published."""
    report = conversion.report
    names = published_classes(report.source, report.classes)
    if names is None:
        log.warning("the weights do not name their %d classes: the class layer begins anew", report.classes)
    else:
        log.info("the weights do not name their %d classes: taken for COCO's", report.classes)
    return names


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@torch.no_grad()
def _copy(student: Detector, ours: dict[str, Tensor], theirs: Any, plan: Start) -> None:
    for name in plan.taken:
        if not is_class_layer(student.config, name):
            ours[name].copy_(theirs[name])
            continue
        if student.config.family == "detr":
            copy_rows(ours[name], theirs[name], plan.rows, len(plan.classes["kept"] + plan.classes["new"]))
            continue
        if student.config.two_stage:
            _copy_rows(ours[name], theirs[name], plan, background=name.startswith(CLASS_LAYER))
            continue
        # One row a class for each anchor of a cell.
        per_cell = student.config.anchors_per_cell
        target, source = (tensor.unflatten(0, (per_cell, -1)) for tensor in (ours[name], theirs[name]))
        target[:, list(plan.rows)] = source[:, list(plan.rows.values())].to(target.dtype)


def copy_rows(ours: Tensor, theirs: Tensor, rows: dict[int, int], classes: int) -> None:
    """The rows of classes (ours -> theirs), and a last one behind all `classes`, where there is one for no class."""
    ours[list(rows)] = theirs[list(rows.values())].to(ours.dtype)
    if len(ours) > classes:
        ours[-1] = theirs[-1]


def _copy_rows(ours: Tensor, theirs: Tensor, plan: Start, *, background: bool) -> None:
    """One row a class and the background's behind them, or four rows a class."""
    if background:
        ours[-1], ours, theirs = theirs[-1], ours[:-1, None], theirs[:-1, None]
    else:
        ours, theirs = (tensor.view(-1, 4, *tensor.shape[1:]) for tensor in (ours, theirs))
    ours[list(plan.rows)] = theirs[list(plan.rows.values())].to(ours.dtype)
