"""`TrainConfig`: every knob of a training, its bounds and its defaults, written once.

The service stores this very model as a job's `spec`; the command line reads it from YAML. The sections stand
beside it. Nothing here imports torch. Names are checked against the closed registry, so no configuration
can name code.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from crosskd.spec import registry
from crosskd.spec.backbone import BackboneConfig
from crosskd.spec.data.mixing import AffineConfig, CropConfig, HSVConfig, MixUpConfig, MosaicConfig
from crosskd.spec.data.section import AugmentConfig, CocoSplit, DataConfig, LoaderConfig, UnlabelledConfig
from crosskd.spec.distill.imitation import BCKDConfig, DeFeatConfig, FGFIConfig, GIDConfig, ImitationConfig
from crosskd.spec.distill.section import (
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
    SKDConfig,
)
from crosskd.spec.distill.teacher_cache import TeacherCacheConfig, refuse_unrepeatable
from crosskd.spec.evaluate_export import EvaluateConfig, EvaluationData, ExportConfig, ScaleConfig
from crosskd.spec.model import HeadConfig, LossConfig, ModelConfig, NeckConfig, PixelConfig, PostprocessConfig
from crosskd.spec.section import ClassNames, FileRef, JobRef, Section, refused
from crosskd.spec.student import StudentConfig
from crosskd.spec.tracking import TrackerNames
from crosskd.spec.training import (
    MOST_EVALUATED,
    CheckpointConfig,
    EMAConfig,
    EvaluationConfig,
    OnnxConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from crosskd.spec.weights.size_limit import refuse_too_large

VERSION = 1

__all__ = [
    "VERSION",
    "AffineConfig",
    "AugmentConfig",
    "BCKDConfig",
    "BackboneConfig",
    "CWDConfig",
    "CheckpointConfig",
    "CocoSplit",
    "CropConfig",
    "CrossKDConfig",
    "DataConfig",
    "DeFeatConfig",
    "DirectConfig",
    "DistillConfig",
    "EMAConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "EvaluationData",
    "ExportConfig",
    "FGDConfig",
    "FGFIConfig",
    "FileRef",
    "FitNetConfig",
    "GIDConfig",
    "HSVConfig",
    "HeadConfig",
    "ImitationConfig",
    "JobRef",
    "LDConfig",
    "LoaderConfig",
    "LossConfig",
    "MGDConfig",
    "MimicConfig",
    "MixUpConfig",
    "ModelConfig",
    "MosaicConfig",
    "NeckConfig",
    "OnnxConfig",
    "OptimizerConfig",
    "PKDConfig",
    "PixelConfig",
    "PostprocessConfig",
    "SKDConfig",
    "ScaleConfig",
    "ScheduleConfig",
    "Section",
    "StudentConfig",
    "TeacherCacheConfig",
    "TeacherConfig",
    "TrainConfig",
    "UnlabelledConfig",
]


class TeacherConfig(Section):
    """The frozen teacher. `model` and `classes` may be left out where the weights say them (a job; our safetensors)."""

    weights: JobRef | FileRef = Field(description="The teacher's weights: of a former job, or a file.")
    model: ModelConfig | None = Field(
        default=None, description="Its detector. Default: as the weights say; needed where they do not."
    )
    classes: ClassNames | None = Field(
        default=None, description="Its class names in label order. Default: as the weights say, else those of the data."
    )


class TrainConfig(Section):
    """One training: data, student, the teacher it learns from if any, and every knob of the run."""

    version: Literal[1] = Field(default=1, description="Version of this format.")
    data: DataConfig = Field(description="The training and the validation split.")
    student: StudentConfig = Field(description="The detector that is trained.")
    teacher: TeacherConfig | None = Field(
        default=None, description="The frozen detector that it learns from; null: it learns from the data alone."
    )
    distill: DistillConfig | None = Field(
        default=None, description="What it learns from the teacher, and how. Default: with a teacher, CrossKD."
    )
    init_student: bool = Field(
        default=False, description="Begin with the teacher's tensors wherever they fit: neck, head, an equal backbone."
    )
    augment: AugmentConfig = Field(
        default=AugmentConfig(), description="How images are resized, mixed, flipped and padded."
    )
    loader: LoaderConfig = Field(default=LoaderConfig(), description="How images are read.")
    batch_size: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="Images per process and step; with `data.unlabelled` those that have labels.",
    )
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
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="How a gradient becomes a step.")
    schedule: ScheduleConfig = Field(
        default=ScheduleConfig(), description="How long it trains, and the learning rate over time."
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="Largest norm of the whole gradient, which is scaled down to it; null: never."
    )
    ema: EMAConfig | None = Field(default=None, description="Moving average of the weights; null: none.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Of the networks; weights stay in fp32."
    )
    channels_last: bool | Literal["auto"] = Field(
        default="auto",
        description="Keep maps with the channels innermost. auto: where a few steps of a long run are faster so; the "
        "choice is remembered for the device and the networks, and stays in a resume.",
    )
    compile: bool = Field(
        default=False, description="Compile the networks with torch.compile: minutes at the start, faster steps."
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Keep only some of the student's maps for the gradient and make the others again: about half the "
        "memory of a step, which takes longer.",
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="When AP is measured, and when that ends the run."
    )
    checkpoint: CheckpointConfig = Field(
        default=CheckpointConfig(), description="When a state to resume from is written."
    )
    export: OnnxConfig | None = Field(
        default_factory=OnnxConfig,  # a default of a field that may be null is more than generators of clients read
        description="The best student as `model.onnx`, written at the end. Default: {}; null: it is not.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Of first weights, order of images and augmentation.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="What it runs on; auto: a GPU where the worker has one."
    )
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads of torch; default: its own.")
    log_every: int = Field(default=10, ge=1, le=10_000, description="Steps between two metric points.")
    track: TrackerNames | None = Field(
        default=None,
        description="Trackers that a worker of the service shows the training in, by name; []: in none. Default: as "
        "the worker's settings say.",
    )

    @model_validator(mode="before")
    @classmethod
    def _distil_by_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("teacher") is not None and data.get("distill") is None:
            data = {**data, "distill": {}}
        return data

    @model_validator(mode="after")
    def _pair(self) -> TrainConfig:
        if self.distill is not None and self.teacher is None:
            raise refused("distill needs a teacher; add `teacher.weights`, or leave `distill` out", "distill")
        if self.init_student and self.teacher is None:
            message = "init_student needs a teacher; add `teacher.weights`, or leave `init_student` out"
            raise refused(message, "init_student")
        if self.init_student and self.student.init is not None:
            message = "init_student and student.init both say what the student begins with; leave one out"
            raise refused(message, "init_student")
        return self

    @model_validator(mode="after")
    def _unlabelled_are_taught(self) -> TrainConfig:
        if (unlabelled := self.data.unlabelled) is None:
            return self
        where = ("data", "unlabelled")
        if self.teacher is None or self.distill is None:
            message = "images without labels are learnt from a teacher alone; add `teacher.weights`, or leave "
            raise refused(message + "`data.unlabelled` out", *where)
        terms = self.distill.terms()
        if all(registry.TERMS[name].truth == "all" for name in terms):
            message = (
                f"nothing is learnt from images without labels: {', '.join(terms)} asks for the ground truth; add "
            )
            raise refused(message + "another term to `distill`, or leave `data.unlabelled` out", *where)
        if unlabelled.per_batch(self.batch_size) < 1:
            message = f"a ratio of {unlabelled.ratio:g} leaves a batch of {self.batch_size} without any of them; raise "
            raise refused(message + "it, or `batch_size`", *where, "ratio")
        return self

    @model_validator(mode="after")
    def _views_come_again(self) -> TrainConfig:
        if self.distill is not None and self.distill.cache is not None:
            refuse_unrepeatable(self.augment)
        return self

    @model_validator(mode="after")
    def _something_to_learn(self) -> TrainConfig:
        """With a teacher a student may well learn from that alone."""
        weights = self.student.detection_weights
        if self.teacher is None and weights and not any(weights.values()):
            message = f"nothing is learnt: {', '.join(weights)} are all 0; give one of them a weight, or add a teacher"
            raise refused(message, "student", "losses")
        return self

    @model_validator(mode="after")
    def _can_be_built(self) -> TrainConfig:
        refuse_too_large(self.student, self.data.classes, "student")
        if self.teacher is not None and self.teacher.model is not None:
            refuse_too_large(self.teacher.model, self.teacher.classes, "teacher", "model")
        return self

    @model_validator(mode="after")
    def _samples(self) -> TrainConfig:
        if self.optimizer.sampling_lr_factor != 1 and self.student.family != "detr":
            message = f"sampling_lr_factor is a knob of the DETRs; leave it out for a {self.student.detector} student"
            raise refused(message, "optimizer", "sampling_lr_factor")
        return self

    @model_validator(mode="after")
    def _keeps_or_compiles(self) -> TrainConfig:
        if self.compile and self.activation_checkpointing:
            message = "compiled networks decide themselves which maps are made again; leave this out, or compile"
            raise refused(message, "activation_checkpointing")
        return self

    @model_validator(mode="after")
    def _some_are_mixed(self) -> TrainConfig:
        for name in ("mosaic", "mixup"):
            section = getattr(self.augment, name)
            if section is not None and section.off_last_epochs >= self.schedule.epochs:
                raise refused(
                    f"off_last_epochs {section.off_last_epochs} leaves none of the {self.schedule.epochs} epochs; "
                    f"lower it, or leave `augment.{name}` out",
                    *("augment", name, "off_last_epochs"),
                )
        return self

    @property
    def evaluation_batch(self) -> int:
        """Images of a batch of its evaluations: by default as many as it trains on, as far as they may."""
        return self.evaluation.batch_size or min(self.batch_size, MOST_EVALUATED)
