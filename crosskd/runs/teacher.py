"""The teacher: found, checked against the data and the student, and loaded before the first step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from crosskd.convert.load import load_weights
from crosskd.convert.source import read_source
from crosskd.detectors.detector import Detector, build_detector
from crosskd.errors import ConfigError
from crosskd.runs.trained_weights import weights_file
from crosskd.spec.config import ModelConfig, TeacherConfig, TrainConfig
from crosskd.spec.distill.pairing import require_pair
from crosskd.spec.inputs import is_folder
from crosskd.spec.weights.start import differences_text, image_differences
from crosskd.weights.description import describe
from crosskd.weights.folder import require_agreement
from crosskd.weights.tensors import is_safetensors

log = logging.getLogger(__name__)


def load_teacher(config: TrainConfig, classes: Sequence[str], weights: Path | None = None) -> Detector:
    """The teacher of `config`, narrowed to `classes` in their order. `weights` is the file a `JobRef` leads to.

    The file itself tells model and classes where it is one of ours; elsewhere `teacher.model` must be given, and
    `teacher.classes` may be (by default they are `classes`). A teacher of more classes, or of another order, is
    narrowed by name: every class has a logit of its own, so the others can be left out without touching these (of a
    two-stage detector, whose classes share a softmax, the probabilities then are those among what is left).
    Raises `ConfigError` or `WeightsError` for whatever does not fit.
    """
    assert config.teacher is not None
    path = weights_file(config.teacher.weights, weights, section="/teacher")
    model, trained_on = _described(config.teacher, path)
    if config.distill is not None:
        require_pair(config.distill, config.student, model)  # before anything is built or read
    if trained_on is None:
        log.warning("%s does not name the teacher's classes: taken to be, in this order, %s", path.name, list(classes))
        trained_on = list(classes)
    kept = _class_map(trained_on, list(classes))
    teacher = build_detector(model, len(trained_on), pretrained=False)
    theirs = load_weights(teacher, path).image_settings
    if differences := image_differences({name: getattr(config.augment, name) for name in theirs}, theirs):
        log.warning("%s", differences_text("the teacher", differences))
    if trained_on != list(classes):
        teacher.select_classes(kept)
        log.info("the teacher knows %d classes; %d of them are taken, by name", len(trained_on), len(kept))
    return teacher.eval().requires_grad_(False)


def _described(teacher: TeacherConfig, path: Path) -> tuple[ModelConfig, list[str] | None]:
    """Model and classes, from the configuration and from the file; where both speak, they must agree on classes.

    Of another project's file the names are only a default: it may spell the same classes otherwise.
    """
    if not is_folder(path) and not is_safetensors(path):
        source = read_source(path)
        return _required(teacher.model or source.model, path), teacher.classes or source.classes
    require_agreement(teacher.model, path, "teacher.model")
    description = describe(path, where="/teacher/weights")
    model, classes = description.model(), description.classes()
    if teacher.classes is not None and classes is not None and teacher.classes != classes:
        raise ConfigError(
            f"teacher.classes is {teacher.classes}, but {path.name} was trained on {classes}",
            where="/teacher/classes",
            remedy="Leave `teacher.classes` out: the file says them.",
        )
    return _required(teacher.model or model, path), teacher.classes or classes


def _required(model: ModelConfig | None, path: Path) -> ModelConfig:
    if model is None:
        raise ConfigError(
            f"{path.name} does not say which model it holds",
            where="/teacher/model",
            remedy="Give `teacher.model`, the detector that the file was trained as.",
        )
    return model


def _class_map(teacher: list[str], data: list[str]) -> list[int]:
    """Which of the teacher's classes each class of the data is."""
    if missing := [name for name in data if name not in teacher]:
        raise ConfigError(
            f"the teacher does not know {missing}; it was trained on {teacher}",
            where="/teacher/classes",
            remedy="Use a teacher that knows every class of `data`, or set `data.classes` to those it knows.",
        )
    return [teacher.index(name) for name in data]
