"""The teacher: found, checked against the data and the student, and loaded before the first step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from crosskd.config import FileRef, ModelConfig, TeacherConfig, TrainConfig
from crosskd.convert.load import load_weights
from crosskd.detectors.detector import Detector, build_detector
from crosskd.engine.weights import read_header
from crosskd.errors import ConfigError, WeightsError


def load_teacher(config: TrainConfig, classes: Sequence[str], weights: Path | None = None) -> Detector:
    """The teacher of `config`, whose label order must be `classes`. `weights` is the file a `JobRef` leads to.

    The file itself tells model and classes where it is one of ours; elsewhere `teacher.model` must be given, and
    `teacher.classes` may be. Raises `ConfigError` or `WeightsError` for whatever does not fit.
    """
    assert config.teacher is not None
    path = weights_file(config.teacher, weights)
    model, trained_on = _described(config.teacher, path)
    if trained_on is not None:
        _require_same_classes(trained_on, list(classes))
    if model.strides != config.student.strides:
        raise ConfigError(
            f"the teacher's strides are {model.strides}, the student's {config.student.strides}",
            where="/student/strides",
            remedy="Give the student the teacher's strides.",
        )
    teacher = build_detector(model, len(classes), pretrained=False)
    load_weights(teacher, path)
    return teacher.eval().requires_grad_(False)


def weights_file(teacher: TeacherConfig, given: Path | None = None) -> Path:
    """Where the teacher's weights lie: `given`, or the configured file. Raises `ConfigError` for a job without one."""
    if given is not None:
        return given
    if isinstance(teacher.weights, FileRef):
        return Path(teacher.weights.file)
    raise ConfigError(
        f"the teacher is the job {teacher.weights.job!r}, whose weights are not at hand here",
        where="/teacher/weights/job",
        remedy="Run this through the service, or name a file: `teacher.weights.file`.",
    )


def _described(teacher: TeacherConfig, path: Path) -> tuple[ModelConfig, list[str] | None]:
    """Model and classes, from the configuration and from the file; where both speak, they must agree on classes."""
    metadata = read_header(path)[0] if path.suffix == ".safetensors" else {}
    try:
        model = ModelConfig.model_validate_json(metadata["model"]) if "model" in metadata else None
        classes = [str(name) for name in json.loads(metadata["classes"])] if "classes" in metadata else None
    except (ValidationError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path.name} describes its model in a way that this version does not know",
            where="/teacher/weights",
            remedy="Give `teacher.model` and use the bare state dict, or train the teacher with this version.",
        ) from error
    if teacher.classes is not None and classes is not None and teacher.classes != classes:
        raise ConfigError(
            f"teacher.classes is {teacher.classes}, but {path.name} was trained on {classes}",
            where="/teacher/classes",
            remedy="Leave `teacher.classes` out: the file says them.",
        )
    if (model := teacher.model or model) is None:
        raise ConfigError(
            f"{path.name} does not say which model it holds",
            where="/teacher/model",
            remedy="Give `teacher.model`, the detector that the file was trained as.",
        )
    return model, teacher.classes or classes


def _require_same_classes(teacher: list[str], data: list[str]) -> None:
    if teacher == data:
        return
    if sorted(teacher) == sorted(data):
        what = f"the teacher knows the same classes in another order: {teacher}; the data: {data}"
        remedy = "Set `data.classes` to the teacher's order."
    else:
        missing = sorted(set(data) - set(teacher)) or "none"
        extra = sorted(set(teacher) - set(data)) or "none"
        what = f"the teacher was trained on other classes; only in the data: {missing}; only in the teacher: {extra}"
        remedy = "Use a teacher trained on the classes of `data`."
    raise ConfigError(what, where="/teacher/classes", remedy=remedy)
