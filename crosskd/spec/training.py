"""How the weights are moved, averaged, evaluated and kept. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from crosskd.spec.bounds import AtMost
from crosskd.spec.section import LearningRate, Probability, Section, refused

MOST_EVALUATED = 1024  # images of a batch of an evaluation; a training may have more
AS_IS = (
    "Plain pycocotools' numbers: the ground truth as it stands in the file, neither clipped nor cleaned, at most 100 "
    "detections an image."
)


class OptimizerConfig(Section):
    name: Literal["sgd", "adamw"] = Field(
        default="sgd", description="Stochastic gradient descent with momentum, or AdamW."
    )
    lr: LearningRate = Field(
        default=0.01, description="Learning rate behind the warm-up, for a total batch of `base_batch` images."
    )
    base_batch: int | None = Field(
        default=16,
        ge=1,
        description="Images of the total batch that `lr` is meant for; it scales with the batch. null: it does not.",
    )
    momentum: Probability = Field(default=0.9, description="Share of the last step that SGD repeats.")
    nesterov: bool = Field(default=False, description="SGD: the gradient is taken ahead, as for YOLOX.")
    betas: tuple[Probability, Probability] = Field(
        default=(0.9, 0.999), description="Of AdamW: how slowly the mean and the mean square of the gradient change."
    )
    weight_decay: float = Field(default=1e-4, ge=0, le=10, description="Of SGD as L2 penalty, of AdamW decoupled.")
    norm_decay: bool = Field(default=True, description="Weight decay on norm layers and biases too.")
    bias_lr_factor: float = Field(
        default=1.0, gt=0, le=100, description="The learning rate of biases is multiplied by this."
    )
    bias_decay: bool = Field(
        default=True, description="Weight decay on the biases of convolutions too, where `norm_decay` allows it."
    )

    backbone_lr_factor: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="The learning rate of the backbone is multiplied by this; DETRs are published with 0.1.",
    )
    sampling_lr_factor: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="DETRs: the learning rate of the layers that say where attention looks (sampling offsets, "
        "reference points) is multiplied by this; 0.1 in the published Deformable DETR.",
    )

    @model_validator(mode="after")
    def _nesterov(self) -> OptimizerConfig:
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise refused("nesterov needs sgd with momentum; leave it out, or use that", "nesterov")
        return self


class ScheduleConfig(Section):
    """Warm-up by steps, then decay: at epoch milestones, along a cosine, or not at all."""

    epochs: int = Field(default=12, ge=1, le=10_000, description="Passes over the training images.")
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps after which the run ends, in the middle of an epoch too; null: by `epochs` alone.",
    )
    warmup_steps: int = Field(
        default=500,
        ge=0,
        le=1_000_000,
        description="Optimizer steps in which the learning rate rises to `lr`; 0: none.",
    )
    warmup_factor: float = Field(default=0.001, gt=0, le=1, description="The warm-up begins at this share of `lr`.")
    warmup: Literal["linear", "constant", "quadratic"] = Field(
        default="linear", description="How it rises: in a line, all at once at the end, or by the square of the steps."
    )
    decay: Literal["multistep", "cosine", "none"] = Field(
        default="multistep", description="How it falls: at `milestones`, along a cosine to `final_factor`, or not."
    )
    milestones: Annotated[list[Annotated[int, Field(ge=1)]], AtMost(64)] = Field(
        default=[8, 11], description="Epochs behind which the learning rate falls, ascending."
    )
    gamma: float = Field(
        default=0.1, gt=0, le=1, description="At each milestone the learning rate is multiplied by this."
    )
    flat: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the run before the cosine begins; 0.5: flat-cosine, as RTMDet's."
    )
    final_factor: float = Field(default=0.0, ge=0, le=1, description="Where the cosine ends, as a share of `lr`.")
    final_epochs: int = Field(
        default=0, ge=0, le=10_000, description="Epochs behind the end of the cosine, at its last rate; 15 for YOLOX."
    )

    @model_validator(mode="after")
    def _final_epochs(self) -> ScheduleConfig:
        if self.final_epochs and self.decay != "cosine":
            raise refused(
                f"final_epochs is a knob of the cosine; leave it out for a decay of {self.decay}", "final_epochs"
            )
        if self.final_epochs and self.final_epochs >= self.epochs:
            raise refused(f"final_epochs {self.final_epochs} leaves none of the {self.epochs} epochs", "final_epochs")
        return self

    @model_validator(mode="after")
    def _flat_cosine(self) -> ScheduleConfig:
        if self.flat and self.decay != "cosine":
            raise refused(f"flat is a knob of the cosine; leave it out for a decay of {self.decay}", "flat")
        return self

    @model_validator(mode="after")
    def _ascending(self) -> ScheduleConfig:
        if sorted(set(self.milestones)) != self.milestones:
            raise refused(f"milestones must ascend without repeats, not {self.milestones}", "milestones")
        return self


class EMAConfig(Section):
    """Exponential moving average of the weights; the averaged weights are evaluated and delivered."""

    decay: float = Field(
        default=0.999, gt=0, lt=1, description="Share of the old average that each optimizer step keeps."
    )
    warmup: bool = Field(default=True, description="Decay grows as (1 + n) / (10 + n) up to `decay`.")


class EvaluationConfig(Section):
    every_epochs: int = Field(
        default=1, ge=1, description="Epochs between two evaluations; the last epoch is always evaluated."
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=MOST_EVALUATED, description=f"Default: the training batch, at most {MOST_EVALUATED}."
    )
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
    every_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between two checkpoints, besides the one at each epoch's end; null: none.",
    )
    keep_last: int = Field(default=2, ge=1, le=1000, description="How many of the newest checkpoints are kept.")
