"""How a training makes pixels of files, where its configuration leaves that to the teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosskd.convert.source import read_source
from crosskd.runs.trained_weights import weights_file
from crosskd.spec.config import TrainConfig
from crosskd.spec.evaluate_export import image_settings

log = logging.getLogger(__name__)


def with_image_settings(
    config: TrainConfig, *, saved: Mapping[str, Any] | None = None, teacher_weights: Path | None = None
) -> TrainConfig:
    """`config` with `augment.antialias` and `augment.sixteen_bit` filled in.

    A run that is resumed keeps what it began with: `saved` are the settings in its checkpoint. Else a distillation
    takes them from its teacher: the student sees what the teacher was trained on. `teacher_weights` is the file behind
    a `JobRef`. Raises `WeightsError` or `ConfigError` for a teacher that cannot be read.
    """
    open_ones = [name for name in image_settings({}) if getattr(config.augment, name) is None]
    if not open_ones:
        return config
    if saved is not None:
        known = image_settings(saved.get("augment", {}))
    elif config.teacher is not None:
        known = read_source(weights_file(config.teacher.weights, teacher_weights, section="/teacher")).image_settings()
        told = ", ".join(f"augment.{name}: {str(known[name]).lower()}" for name in open_ones)
        log.info("images are read and resized as the teacher was trained: %s", told)
    else:
        known = image_settings({})
    filled = config.augment.model_copy(update={name: known[name] for name in open_ones})
    return config.model_copy(update={"augment": filled})
