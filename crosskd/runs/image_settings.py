"""How a training makes pixels of files, where its configuration leaves that to the weights it comes from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosskd.convert.source import read_source
from crosskd.errors import CrossKDError
from crosskd.runs import start
from crosskd.runs.trained_weights import weights_file
from crosskd.spec.config import TrainConfig
from crosskd.spec.evaluate_export import image_settings

log = logging.getLogger(__name__)


def with_image_settings(
    config: TrainConfig,
    *,
    saved: Mapping[str, Any] | None = None,
    teacher_weights: Path | None = None,
    init_weights: Path | None = None,
) -> TrainConfig:
    """`config` with `augment.antialias` and `augment.sixteen_bit` filled in.

    A run that is resumed keeps what it began with: `saved` are the settings in its checkpoint. Else a distillation
    takes them from its teacher, because the student sees what the teacher was trained on; without a teacher, a run
    takes them from the detector that it begins with (`student.init`). `teacher_weights` and `init_weights` are the
    files behind a `JobRef`. Raises `WeightsError` or `ConfigError` for a file that cannot be read.
    """
    open_ones = [name for name in image_settings({}) if getattr(config.augment, name) is None]
    if not open_ones:
        return config
    known = image_settings({} if saved is None else saved.get("augment", {}))
    whose = ""
    if saved is None and config.teacher is not None:
        known, whose = _recorded(weights_file(config.teacher.weights, teacher_weights, section="/teacher")), "teacher"
    elif saved is None and config.student.init is not None:
        known, whose = _of_the_start(start.init_file(config.student.init, init_weights)), "detector of `student.init`"
    if whose:
        told = ", ".join(f"augment.{name}: {str(known[name]).lower()}" for name in open_ones)
        log.info("images are read and resized as the %s was trained: %s", whose, told)
    filled = config.augment.model_copy(update={name: known[name] for name in open_ones})
    return config.model_copy(update={"augment": filled})


def _recorded(path: Path) -> dict[str, Any]:
    return read_source(path).image_settings()


def _of_the_start(path: Path) -> dict[str, Any]:
    try:
        return _recorded(path)
    except CrossKDError as error:
        error.where = error.where or start.POINTER
        raise
