"""What the services need of the core's configuration. The API sees the core through this module alone."""

from __future__ import annotations

from crosskd.config import (
    CocoSplit,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    ExportConfig,
    FileRef,
    JobRef,
    Knobs,
    LoaderConfig,
    MeasuredData,
    ModelConfig,
    PostprocessConfig,
    ScaleConfig,
    TeacherConfig,
    TrainConfig,
)
from crosskd.pairing import settle
from crosskd.sections.jobs import scale_of, unexportable, with_postprocess
from crosskd.shapes import ExpectedShapes, expected_shapes

__all__ = [
    "CocoSplit",
    "DataConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExpectedShapes",
    "ExportConfig",
    "FileRef",
    "JobRef",
    "Knobs",
    "LoaderConfig",
    "MeasuredData",
    "ModelConfig",
    "PostprocessConfig",
    "ScaleConfig",
    "TeacherConfig",
    "TrainConfig",
    "expected_shapes",
    "scale_of",
    "settle",
    "unexportable",
    "with_postprocess",
]
