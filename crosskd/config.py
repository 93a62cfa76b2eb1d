"""`TrainConfig`: every knob of a training, its bounds and its defaults, written once.

The service stores this very model as a job's `spec`; the command line reads it from YAML. Nothing here
imports torch. Names are checked against the closed registry, so no configuration can name code.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from crosskd import registry

VERSION = 1
PYRAMID = [8, 16, 32, 64, 128]
GROUPS = 32  # of a group norm, as published
SMALLEST_GROUP = 2  # channels: with one, the single cell of a small image's last level has no deviation


class Knobs(BaseModel):
    """Base of every section: unknown keys are errors, values are never changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def _known(table: dict[str, Any], kind: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in table:
            raise ValueError(f"unknown {kind} {name!r}; use one of: {', '.join(sorted(table))}")
        return name

    return AfterValidator(check)


BackboneName = Annotated[str, _known(registry.BACKBONES, "backbone")]
DetectorName = Annotated[str, _known(registry.DETECTORS, "detector")]
PathText = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e4)]
LearningRate = Annotated[float, Field(gt=0, le=100)]
Channels = Annotated[int, Field(ge=8, le=4096)]


# --- data ------------------------------------------------------------------------------------------------------------


class CocoSplit(Knobs):
    """One split: a COCO instances file and the folder that its `file_name`s are relative to."""

    annotations: PathText
    images: PathText


class DataConfig(Knobs):
    """Training and validation split. `classes` is read from the training file when it is not given."""

    train: CocoSplit
    val: CocoSplit
    classes: Annotated[list[ClassName], Field(min_length=1, max_length=10_000)] | None = Field(
        default=None, description="Class names in label order; default: the categories by ascending id."
    )
    max_corrupt_images: int = Field(default=0, ge=0, description="Unreadable images skipped before the run fails.")
    max_image_pixels: int = Field(default=64_000_000, ge=1, description="A larger image is refused unread.")

    @model_validator(mode="after")
    def _classes_once(self) -> DataConfig:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must be unique; remove the repeated names")
        return self


class AugmentConfig(Knobs):
    """Images are resized, keeping their ratio, to fit `short_edge` x `long_edge`, then flipped, then padded."""

    short_edges: Annotated[list[Annotated[int, Field(ge=32, le=4096)]], Field(min_length=1, max_length=64)] = Field(
        default=[800], description="Pixels; more than one: drawn anew for each image (multi-scale)."
    )
    long_edge: int = Field(default=1333, ge=32, le=8192, description="Pixels.")
    val_short_edge: int | None = Field(default=None, ge=32, le=4096, description="Default: the largest short edge.")
    flip: Probability = 0.5
    pad_to: int = Field(default=32, ge=1, le=256, description="Batches are padded to a multiple of this.")
    min_side: float = Field(
        default=1.0, ge=0, description="Boxes narrower than this many original pixels train nothing."
    )

    @model_validator(mode="after")
    def _fits(self) -> AugmentConfig:
        if self.long_edge < max(self.short_edges):
            raise ValueError(f"long_edge {self.long_edge} is below the largest short edge {max(self.short_edges)}")
        return self


class LoaderConfig(Knobs):
    workers: int = Field(default=2, ge=0, le=64, description="Loader processes; 0 loads in the training process.")
    drop_empty: bool = Field(default=True, description="Leave training images without boxes out.")
    group_by_aspect: bool = Field(default=True, description="Wide images and tall ones in batches of their own.")


# --- models ----------------------------------------------------------------------------------------------------------


class FileRef(Knobs):
    file: PathText


class BackboneConfig(Knobs):
    """`frozen_stages`: -1 none, 0 the stem, 1 the stem and the first stage, and so on."""

    name: BackboneName
    width: int | None = Field(default=None, ge=8, le=256, description="Channels of the stem; default: the name's own.")
    init: Literal["random", "imagenet"] | FileRef | None = Field(
        default=None, description="Default: imagenet where torchvision has such weights, else random."
    )
    frozen_stages: int | None = Field(default=None, ge=-1, le=4, description="Default: 1 if pretrained, else -1.")
    norm_eval: bool | None = Field(
        default=None, description="Batch norm by running statistics. Default: if pretrained."
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        name = data.get("name") if isinstance(data, dict) else None
        if not isinstance(name, str) or name not in registry.BACKBONES:  # a list cannot be looked up
            return data
        entry = registry.BACKBONES[name]
        data = dict(data)
        if data.get("width") is None:
            data["width"] = entry.width
        publishes = entry.imagenet and data["width"] == entry.width
        if data.get("init") is None:
            data["init"] = "imagenet" if publishes else "random"
        if data["init"] == "imagenet" and not publishes:
            raise ValueError(f"there are no imagenet weights for {name} of width {data['width']}; use random")
        pretrained = data["init"] != "random"
        if data.get("frozen_stages") is None:
            data["frozen_stages"] = 1 if pretrained else -1
        if data.get("norm_eval") is None:
            data["norm_eval"] = pretrained
        return data


class NeckConfig(Knobs):
    """FPN: P3..P5 from C3..C5, P6 and P7 (where `strides` has them) by strided convolutions from P5 (on output)."""

    channels: Channels = 256


class HeadConfig(Knobs):
    """Two towers (classes, boxes) of `depth` times convolution, group norm, ReLU, then the prediction layers."""

    channels: Channels = 256
    depth: int = Field(default=4, ge=0, le=16)
    norm_groups: int = Field(
        default=GROUPS, ge=1, le=256, description="Default: 32, or half the channels where that is less."
    )
    reg_max: int = Field(default=16, ge=1, le=64, description="The last bin of the distance distribution, in strides.")

    @model_validator(mode="before")
    @classmethod
    def _default_groups(cls, data: Any) -> Any:
        if isinstance(data, dict) and "norm_groups" not in data and isinstance(data.get("channels"), int):
            data = {**data, "norm_groups": max(1, min(GROUPS, data["channels"] // SMALLEST_GROUP))}
        return data

    @model_validator(mode="after")
    def _groups(self) -> HeadConfig:
        if self.channels % self.norm_groups:
            raise ValueError(f"channels {self.channels} is no multiple of norm_groups {self.norm_groups}")
        if self.channels // self.norm_groups < SMALLEST_GROUP:
            raise ValueError(
                f"norm_groups {self.norm_groups} leaves one of the {self.channels} channels to a group, and a single "
                f"value cannot be normalised; use {self.channels // SMALLEST_GROUP} at most"
            )
        return self


class LossConfig(Knobs):
    """Weights of the detection loss (GFL: arXiv 2006.04388)."""

    quality_focal: Weight = 1.0
    quality_focal_beta: float = Field(default=2.0, ge=0, le=10)
    distribution_focal: Weight = 0.25
    giou: Weight = 2.0


class PixelConfig(Knobs):
    """How an image becomes a tensor: (value - mean) / std per channel, values 0..255."""

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (
        58.395,
        57.12,
        57.375,
    )
    order: Literal["rgb", "bgr"] = "rgb"


class PostprocessConfig(Knobs):
    """From predictions to detections."""

    score_threshold: Probability = 0.05
    nms_iou: Probability = 0.6
    pre_nms: int = Field(default=1000, ge=1, le=100_000, description="Kept per level before NMS.")
    max_detections: int = Field(default=100, ge=1, le=10_000, description="Kept per image.")


class ModelConfig(Knobs):
    """A detector. The number of classes is not part of it: it comes with the data."""

    detector: DetectorName = "gfl"
    backbone: BackboneConfig
    neck: NeckConfig = NeckConfig()
    head: HeadConfig = HeadConfig()
    losses: LossConfig = LossConfig()
    pixels: PixelConfig = PixelConfig()
    postprocess: PostprocessConfig = PostprocessConfig()
    strides: Annotated[list[int], Field(min_length=3, max_length=5)] = Field(
        default=[8, 16, 32, 64, 128], description="Of P3..P7, in pixels; a shorter list ends the pyramid earlier."
    )
    anchor_scale: float = Field(default=8.0, gt=0, le=64, description="Side of the square anchor, in strides.")

    @model_validator(mode="after")
    def _strides(self) -> ModelConfig:
        if self.strides != PYRAMID[: len(self.strides)]:
            raise ValueError(f"strides must be the first 3 to 5 of {PYRAMID}: C3 of every backbone has stride 8")
        return self


class JobRef(Knobs):
    """Weights that a former job of the service made."""

    job: Annotated[str, Field(min_length=1, max_length=64)]
    checkpoint: Literal["best", "last"] = "best"


class TeacherConfig(Knobs):
    """The frozen teacher. `model` and `classes` may be left out where the weights say them (a job; our safetensors)."""

    weights: JobRef | FileRef
    model: ModelConfig | None = None
    classes: Annotated[list[ClassName], Field(min_length=1, max_length=10_000)] | None = None


# --- distillation ----------------------------------------------------------------------------------------------------


class CrossKDConfig(Knobs):
    """CrossKD (arXiv 2306.11369): the student's head features through the teacher's head, against the teacher.

    `after_relu` says where the features are cut: behind the activation, as the published results were made,
    or before it, as the paper's text reads.
    """

    cut: int | None = Field(default=None, ge=0, le=16, description="Convs the student keeps; default: as published.")
    cls_weight: Weight = 1.0
    box_weight: Weight = 4.0
    temperature: float = Field(default=1.0, gt=0, le=100)
    beta: float = Field(default=1.0, ge=0, le=10, description="Exponent of the quality focal weight |p - q|.")
    after_relu: bool = True


class PKDConfig(Knobs):
    """PKD (arXiv 2207.02039): mean squared error of normalised FPN maps."""

    weight: Weight = 6.0


class DistillConfig(Knobs):
    """The distillation terms by name; a combination names several. An empty section means CrossKD alone."""

    crosskd: CrossKDConfig | None = None
    pkd: PKDConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _one(cls, data: Any) -> Any:
        if isinstance(data, dict) and all(data.get(name) is None for name in registry.TERMS):
            data = {**data, "crosskd": {}}
        return data

    def terms(self) -> dict[str, Knobs]:
        """The terms that are on, in the order of the registry."""
        return {name: knobs for name in registry.TERMS if (knobs := getattr(self, name)) is not None}


# --- training --------------------------------------------------------------------------------------------------------


class OptimizerConfig(Knobs):
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


class ScheduleConfig(Knobs):
    """Warm-up by steps, then decay: at epoch milestones, along a cosine, or not at all."""

    epochs: int = Field(default=12, ge=1, le=10_000)
    max_steps: int | None = Field(default=None, ge=1, description="Ends the run early, in the middle of an epoch.")
    warmup_steps: int = Field(default=500, ge=0, le=1_000_000)
    warmup_factor: float = Field(default=0.001, gt=0, le=1)
    warmup: Literal["linear", "constant"] = "linear"
    decay: Literal["multistep", "cosine", "none"] = "multistep"
    milestones: list[Annotated[int, Field(ge=1)]] = Field(default=[8, 11], description="In epochs.")
    gamma: float = Field(default=0.1, gt=0, le=1)
    final_factor: float = Field(default=0.0, ge=0, le=1, description="Where the cosine ends.")

    @model_validator(mode="after")
    def _ascending(self) -> ScheduleConfig:
        if sorted(set(self.milestones)) != self.milestones:
            raise ValueError(f"milestones must ascend without repeats, not {self.milestones}")
        return self


class EMAConfig(Knobs):
    """Exponential moving average of the weights; the averaged weights are evaluated and delivered."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    warmup: bool = Field(default=True, description="Decay grows as (1 + n) / (10 + n) up to `decay`.")


class EvaluationConfig(Knobs):
    every_epochs: int = Field(default=1, ge=1)
    batch_size: int | None = Field(default=None, ge=1, le=1024, description="Default: the training batch.")
    teacher_first: bool = Field(default=True, description="Evaluate the teacher before the first step.")


class CheckpointConfig(Knobs):
    every_steps: int | None = Field(default=None, ge=1, description="Besides the one at each epoch's end.")
    keep_last: int = Field(default=2, ge=1, le=1000)


class TrainConfig(Knobs):
    """One training: data, student, the teacher it learns from if any, and every knob of the run."""

    version: Literal[1] = 1
    data: DataConfig
    student: ModelConfig
    teacher: TeacherConfig | None = None
    distill: DistillConfig | None = None
    augment: AugmentConfig = AugmentConfig()
    loader: LoaderConfig = LoaderConfig()
    batch_size: int = Field(default=16, ge=1, le=4096, description="Images per process and step.")
    accumulate: int = Field(default=1, ge=1, le=1024, description="Batches per optimizer step.")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip_norm: float | None = Field(default=None, gt=0, description="Largest norm of the whole gradient.")
    ema: EMAConfig | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
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
        return self
