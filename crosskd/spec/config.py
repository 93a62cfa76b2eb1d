"""`TrainConfig`: every knob of a training, its bounds and its defaults, written once.

The service stores this very model as a job's `spec`; the command line reads it from YAML. The sections stand
beside it. Nothing here imports torch. Names are checked against the closed registry, so no configuration
can name code.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from crosskd.spec.backbone import BackboneConfig
from crosskd.spec.data import AugmentConfig, CocoSplit, DataConfig, LoaderConfig
from crosskd.spec.distill import (
    CrossKDConfig,
    CWDConfig,
    DirectConfig,
    DistillConfig,
    FGDConfig,
    FitNetConfig,
    LDConfig,
    MGDConfig,
    MimicConfig,
    PKDConfig,
)
from crosskd.spec.evaluate_export import EvaluateConfig, EvaluationData, ExportConfig, ScaleConfig
from crosskd.spec.model import HeadConfig, LossConfig, ModelConfig, NeckConfig, PixelConfig, PostprocessConfig
from crosskd.spec.section import ClassNames, FileRef, JobRef, Section
from crosskd.spec.student import StudentConfig
from crosskd.spec.training import (
    CheckpointConfig,
    EMAConfig,
    EvaluationConfig,
    OnnxConfig,
    OptimizerConfig,
    ScheduleConfig,
)

VERSION = 1

__all__ = [
    "VERSION",
    "AugmentConfig",
    "BackboneConfig",
    "CWDConfig",
    "CheckpointConfig",
    "CocoSplit",
    "CrossKDConfig",
    "DataConfig",
    "DirectConfig",
    "DistillConfig",
    "EMAConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "EvaluationData",
    "ExportConfig",
    "FGDConfig",
    "FileRef",
    "FitNetConfig",
    "HeadConfig",
    "JobRef",
    "LDConfig",
    "LoaderConfig",
    "LossConfig",
    "MGDConfig",
    "MimicConfig",
    "ModelConfig",
    "NeckConfig",
    "OnnxConfig",
    "OptimizerConfig",
    "PKDConfig",
    "PixelConfig",
    "PostprocessConfig",
    "ScaleConfig",
    "ScheduleConfig",
    "Section",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
]


class TeacherConfig(Section):
    """The frozen teacher. `model` and `classes` may be left out where the weights say them (a job; our safetensors)."""

    weights: JobRef | FileRef
    model: ModelConfig | None = None
    classes: ClassNames | None = None


class TrainConfig(Section):
    """One training: data, student, the teacher it learns from if any, and every knob of the run."""

    version: Literal[1] = 1
    data: DataConfig
    student: StudentConfig
    teacher: TeacherConfig | None = None
    distill: DistillConfig | None = None
    init_student: bool = Field(
        default=False, description="Begin with the teacher's tensors wherever they fit: neck, head, an equal backbone."
    )
    augment: AugmentConfig = AugmentConfig()
    loader: LoaderConfig = LoaderConfig()
    batch_size: int = Field(default=16, ge=1, le=4096, description="Images per process and step.")
    accumulate: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Batches per optimizer step. Each is divided by its own positives (GFL, ATSS, FCOS: unlike the "
        "batches of several processes, which share the mean of theirs).",
    )
    gpus: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Processes that train together, one GPU each; with `device: cpu`, so many processes on the CPU.",
    )
    sync_statistics: bool = Field(
        default=False,
        description="Batch statistics and the divisors of losses over all processes, as if one had the total batch.",
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip_norm: float | None = Field(default=None, gt=0, description="Largest norm of the whole gradient.")
    ema: EMAConfig | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = Field(default=False, description="Keep maps with the channels innermost: often faster.")
    compile: bool = Field(
        default=False, description="Compile the networks with torch.compile: minutes at the start, faster steps."
    )
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    export: OnnxConfig | None = Field(
        default=OnnxConfig(), description="The best student as `model.onnx`, written at the end; null: it is not."
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads of torch; default: its own.")
    log_every: int = Field(default=10, ge=1, le=10_000, description="Steps between two metric points.")

    @model_validator(mode="before")
    @classmethod
    def _distil_by_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("teacher") is not None and data.get("distill") is None:
            data = {**data, "distill": {}}
        return data

    @model_validator(mode="after")
    def _pair(self) -> TrainConfig:
        if self.distill is not None and self.teacher is None:
            raise ValueError("distill needs a teacher; add `teacher.weights`, or leave `distill` out")
        if self.init_student and self.teacher is None:
            raise ValueError("init_student needs a teacher; add `teacher.weights`, or leave `init_student` out")
        if self.init_student and self.student.init is not None:
            raise ValueError("init_student and student.init both say what the student begins with; leave one out")
        return self
