"""How the weights are moved, averaged, evaluated and kept. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from crosskd.spec.bounds import AtMost
from crosskd.spec.section import LearningRate, Probability, Section

AS_IS = (
    "Plain pycocotools' numbers: the ground truth as it stands in the file, neither clipped nor cleaned, at most 100 "
    "detections an image."
)


class OptimizerConfig(Section):
    name: Literal["sgd", "adamw"] = "sgd"
    lr: LearningRate = 0.01
    base_batch: int | None = Field(
        default=16, ge=1, description="`lr` is meant for this total batch and scales linearly; null: never scaled."
    )
    momentum: Probability = 0.9
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-4, ge=0, le=10)
    norm_decay: bool = Field(default=True, description="Weight decay on norm layers and biases too.")
    bias_lr_factor: float = Field(default=1.0, gt=0, le=100)
    bias_decay: bool = True


class ScheduleConfig(Section):
    """Warm-up by steps, then decay: at epoch milestones, along a cosine, or not at all."""

    epochs: int = Field(default=12, ge=1, le=10_000)
    max_steps: int | None = Field(default=None, ge=1, description="Ends the run early, in the middle of an epoch.")
    warmup_steps: int = Field(default=500, ge=0, le=1_000_000)
    warmup_factor: float = Field(default=0.001, gt=0, le=1)
    warmup: Literal["linear", "constant"] = "linear"
    decay: Literal["multistep", "cosine", "none"] = "multistep"
    milestones: Annotated[list[Annotated[int, Field(ge=1)]], AtMost(64)] = Field(
        default=[8, 11], description="In epochs."
    )
    gamma: float = Field(default=0.1, gt=0, le=1)
    final_factor: float = Field(default=0.0, ge=0, le=1, description="Where the cosine ends.")

    @model_validator(mode="after")
    def _ascending(self) -> ScheduleConfig:
        if sorted(set(self.milestones)) != self.milestones:
            raise ValueError(f"milestones must ascend without repeats, not {self.milestones}")
        return self


class EMAConfig(Section):
    """Exponential moving average of the weights; the averaged weights are evaluated and delivered."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    warmup: bool = Field(default=True, description="Decay grows as (1 + n) / (10 + n) up to `decay`.")


class EvaluationConfig(Section):
    every_epochs: int = Field(default=1, ge=1)
    batch_size: int | None = Field(default=None, ge=1, le=1024, description="Default: the training batch.")
    as_is: bool = Field(default=False, description=AS_IS)
    teacher_first: bool = Field(default=True, description="Evaluate the teacher before the first step.")
    patience: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Ends the run after so many evaluations in a row without a better AP; null: never.",
    )
    min_delta: float = Field(default=0.0, ge=0, lt=1, description="AP, 0..1, by which `patience` wants it better.")


class OnnxConfig(Section):
    """What becomes of the best student at the end: an ONNX graph from pixels to detections, checked against PyTorch.

    A graph that cannot be written, or that does not agree, does not fail the training.
    """

    opset: int = Field(default=18, ge=18, le=21, description="Of the ONNX operators.")
    check_images: int = Field(
        default=2, ge=1, le=1000, description="Validation images on which the graph is checked, the first ones."
    )
    max_seconds: int = Field(default=900, ge=1, le=86_400, description="It is given up where it takes longer.")


class CheckpointConfig(Section):
    every_steps: int | None = Field(default=None, ge=1, description="Besides the one at each epoch's end.")
    keep_last: int = Field(default=2, ge=1, le=1000)
