"""What is done with finished weights: they are evaluated, or exported. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from crosskd.spec import registry
from crosskd.spec.data.section import (
    ANTIALIAS,
    DATASET,
    KEEP_RATIO,
    SIXTEEN_BIT,
    AugmentConfig,
    CocoSplit,
    DatasetRef,
    SixteenBit,
    with_splits,
    without_required,
)
from crosskd.spec.model import ModelConfig, PostprocessConfig
from crosskd.spec.section import MAX_PIXELS, ClassNames, FileRef, JobRef, PathText, Section, refused
from crosskd.spec.training import AS_IS, MOST_EVALUATED
from crosskd.spec.weights.size_limit import refuse_too_large

DESCRIBED = "Default: as the weights say; needed where they do not."


class EvaluationData(Section):
    """The split that the detector is evaluated on."""

    model_config = without_required("val")

    dataset: DatasetRef | None = Field(default=None, description=DATASET)
    val: CocoSplit = Field(description="What AP is measured on.")
    classes: ClassNames | None = Field(
        default=None, description="Class names in label order; default: the model's, else the categories by id."
    )
    max_corrupt_images: int = Field(
        default=0, ge=0, description="Unreadable images that are skipped before the job fails."
    )
    max_image_pixels: int = Field(
        default=64_000_000, ge=1, le=MAX_PIXELS, description="An image of more pixels than this is refused unread."
    )

    @model_validator(mode="before")
    @classmethod
    def _split_of_the_dataset(cls, value: Any) -> Any:
        return with_splits(value, "val")

    @model_validator(mode="after")
    def _classes_once(self) -> EvaluationData:
        _require_unique(self.classes)
        return self


class ScaleConfig(Section):
    """Images are resized, keeping their ratio, to fit `short_edge` x `long_edge`, or stretched; then padded."""

    short_edge: int = Field(
        default=800,
        ge=32,
        le=4096,
        description="The shorter side becomes so many pixels, where the longer one allows it.",
    )
    long_edge: int = Field(default=1333, ge=32, le=8192, description="The longer side fits into so many pixels.")
    pad_to: int = Field(default=32, ge=1, le=1024, description="Both sides are padded to a multiple of so many pixels.")
    keep_ratio: bool = Field(default=True, description=KEEP_RATIO)
    antialias: bool | None = Field(
        default=None, description=f"{ANTIALIAS} Default: as in the training; true where the weights do not say it."
    )
    sixteen_bit: SixteenBit | None = Field(
        default=None,
        description=f"{SIXTEEN_BIT} Default: as in the training; high_byte where the weights do not say it.",
    )


class _WeightsConfig(Section):
    """What evaluating and exporting have in common: weights, and how detections are made of them."""

    version: Literal[1] = Field(default=1, description="Version of this format.")
    weights: JobRef | FileRef = Field(description="What is evaluated or exported: a former job's weights, or a file.")
    model: ModelConfig | None = Field(default=None, description=DESCRIBED)
    scale: ScaleConfig | None = Field(default=None, description="Default: as in the training, where it is known.")
    postprocess: PostprocessConfig | None = Field(default=None, description="Default, knob by knob: the model's own.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="What it runs on; auto: a GPU where the worker has one."
    )
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads of torch; default: its own.")

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        if self.model is not None:
            refuse_too_large(self.model, None, "model")
        return self


class EvaluateConfig(_WeightsConfig):
    """COCO AP of a weights file on a validation split."""

    data: EvaluationData = Field(description="The split, and what is allowed of its images.")
    batch_size: int = Field(
        default=16, ge=1, le=MOST_EVALUATED, description="Images in a batch; it changes speed and memory, not AP."
    )
    as_is: bool = Field(default=False, description=AS_IS)
    workers: int = Field(default=2, ge=0, le=64, description="Loader processes; 0 loads in the process itself.")


class ExportConfig(_WeightsConfig):
    """A weights file as an ONNX graph from pixels to detections, checked against PyTorch on real images."""

    classes: ClassNames | None = Field(default=None, description=f"Class names in label order. {DESCRIBED}")
    format: Literal["onnx"] = Field(default="onnx", description="What is written: an ONNX graph.")
    opset: int = Field(default=18, ge=18, le=21, description="Version of the ONNX operators.")
    images: PathText | None = Field(
        default=None,
        description="A folder of images to check the graph on; default: the validation images of the weights' job.",
    )
    check_images: int = Field(default=4, ge=1, le=1000, description="How many of them, the first by name.")
    max_image_pixels: int = Field(
        default=64_000_000, ge=1, le=MAX_PIXELS, description="An image of more pixels than this is refused unread."
    )
    max_seconds: int = Field(default=1800, ge=1, le=86_400, description="Seconds after which the export fails.")

    @model_validator(mode="after")
    def _classes_once(self) -> ExportConfig:
        _require_unique(self.classes)
        return self


def with_postprocess(model: ModelConfig, wanted: PostprocessConfig | None) -> ModelConfig:
    """`model` with the knobs that `wanted` was given, and its own others.

    Raises `pydantic.ValidationError` where its detector does not read one of them.
    """
    if wanted is None:
        return model
    values = model.model_dump()
    values["postprocess"] |= wanted.model_dump(include=wanted.model_fields_set)
    return ModelConfig.model_validate(values)


def unexportable(model: ModelConfig) -> str:
    """Why `model` has no form in ONNX with free image sizes; empty where nothing is known to stand against it."""
    name = model.backbone.name
    fault = registry.BACKBONES[name].export_fault
    return f"{name} cannot be exported: {fault}" if fault else ""


def untried(model: ModelConfig) -> str:
    """What to tell of a `model` of which nobody knows whether it has a form in ONNX; empty where it is known."""
    name = model.backbone.name
    if registry.BACKBONES[name].export_fault is not None:
        return ""
    return f"nobody has tried yet whether {name} can be exported: the export fails if not, within `max_seconds`"


def scale_of(augment: Mapping[str, Any]) -> ScaleConfig:
    """The scale of the evaluation, out of the values of an `AugmentConfig` or of what a weights file records of one.

    Raises `ValueError` for values that are none.
    """
    short = augment.get("val_short_edge") or max(augment.get("short_edges") or [None])
    return ScaleConfig.model_validate(
        {"short_edge": short, **{name: augment.get(name) for name in ("long_edge", "pad_to")}}
        | {"keep_ratio": augment.get("keep_ratio", True)}  # which older records do not say
        | {name: augment.get(name, value) for name, value in _IMAGE_SETTINGS.items()}
    )


# What holds where nobody said otherwise; all that there was before there was a choice, so older records have neither.
_IMAGE_SETTINGS: dict[str, Any] = {"antialias": True, "sixteen_bit": "high_byte"}
# What is known of files that MMDetection or torchvision wrote: both resize by plain bilinear interpolation.
OF_OTHER_PROJECTS = {"antialias": False}


def image_settings(augment: Mapping[str, Any]) -> dict[str, Any]:
    """`antialias` and `sixteen_bit`, as the values of an `AugmentConfig` or of a record of one have them; never None.

    Raises `ValueError` for values that are none.
    """
    told = {name: augment[name] for name in _IMAGE_SETTINGS if augment.get(name) is not None}
    return _IMAGE_SETTINGS | ScaleConfig.model_validate(told).model_dump(include=set(told))


def image_facts(augment: Mapping[str, Any]) -> dict[str, Any]:
    """`image_settings` of a training, and `keep_ratio` where a size is recorded, which says it with it.

    Raises `ValueError` for values that are none.
    """
    sized = augment.get("val_short_edge") is not None or augment.get("short_edges") is not None
    told = {"keep_ratio": augment.get("keep_ratio", True)} if sized else {}
    return image_settings(augment) | ScaleConfig.model_validate(told).model_dump(include=set(told))


def augment_at(scale: ScaleConfig) -> AugmentConfig:
    """What evaluates at `scale`: the way back from `scale_of`."""
    # A short edge above the long one never decides a size, but would not be a valid setting.
    short = min(scale.short_edge, scale.long_edge)
    return AugmentConfig(
        short_edges=[short],
        long_edge=scale.long_edge,
        pad_to=scale.pad_to,
        keep_ratio=scale.keep_ratio,
        antialias=scale.antialias,
        sixteen_bit=scale.sixteen_bit,
    )


def _require_unique(classes: list[str] | None) -> None:
    if classes is not None and len(set(classes)) != len(classes):
        raise refused("classes must be unique; remove the repeated names", "classes")
