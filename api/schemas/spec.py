"""What the services need of the core's configuration. The API sees the core through this module alone."""

from __future__ import annotations

from crosskd.config import (
    DataConfig,
    DistillConfig,
    FileRef,
    JobRef,
    Knobs,
    LoaderConfig,
    ModelConfig,
    TeacherConfig,
    TrainConfig,
)
from crosskd.registry import DETECTORS
from crosskd.shapes import expected_shapes

__all__ = [
    "DETECTORS",
    "DataConfig",
    "DistillConfig",
    "FileRef",
    "JobRef",
    "Knobs",
    "LoaderConfig",
    "ModelConfig",
    "TeacherConfig",
    "TrainConfig",
    "expected_shapes",
]
