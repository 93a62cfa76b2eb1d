"""Finished weights: the detector in a file, with all that the file or the configuration says of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from crosskd.convert.load import load_weights
from crosskd.detectors.detector import Detector, build_detector
from crosskd.engine.checkpoint import file_digest
from crosskd.errors import ConfigError, WeightsError
from crosskd.spec.config import AugmentConfig, EvaluateConfig, ExportConfig, FileRef, ModelConfig, ScaleConfig
from crosskd.spec.evaluate_export import scale_of, with_postprocess
from crosskd.weights.native import class_names, read_header


@dataclass(frozen=True)
class Description:
    """What a weights file says of itself; None: it does not."""

    path: Path
    model: ModelConfig | None
    classes: list[str] | None
    scale: ScaleConfig | None


@dataclass(frozen=True)
class Finished:
    """A detector that is only used any more."""

    detector: Detector
    classes: list[str]  # in label order
    scale: ScaleConfig
    digest: str  # sha256 of the file

    @property
    def augment(self) -> AugmentConfig:
        """The scale as the data's transforms read it."""
        long = self.scale.long_edge
        # A short edge above the long one never decides a size, but would not be a valid setting.
        short = min(self.scale.short_edge, long)
        return AugmentConfig(short_edges=[short], long_edge=long, pad_to=self.scale.pad_to)


def describe(config: EvaluateConfig | ExportConfig, given: Path | None = None) -> Description:
    """What the weights of `config` say; `given` is the file behind a `JobRef`. Raises `ConfigError`, `WeightsError`."""
    path = given or _named(config)
    metadata = read_header(path)[0] if path.suffix == ".safetensors" else {}
    try:
        return Description(
            path,
            ModelConfig.model_validate_json(metadata["model"]) if "model" in metadata else None,
            class_names(metadata["classes"], distinct=True) if "classes" in metadata else None,
            scale_of(json.loads(metadata["augment"])) if "augment" in metadata else None,
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path.name} describes its model in a way that this version does not know",
            where="/weights",
            remedy="Give `model` and use the bare state dict, or train with this version.",
        ) from error


def load(config: EvaluateConfig | ExportConfig, description: Description, classes: Sequence[str]) -> Finished:
    """The detector with its weights, in evaluation mode on the CPU, knowing `classes`.

    Raises:
        ConfigError: nothing says which model it is, or the model does not take a knob of `postprocess`.
        WeightsError: the file is not of that model.
    """
    if (model := config.model or description.model) is None:
        raise ConfigError(
            f"{description.path.name} does not say which model it holds",
            where="/model",
            remedy="Give `model`, the detector that the file was trained as.",
        )
    try:
        model = with_postprocess(model, config.postprocess)
    except ValidationError as error:
        message = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise ConfigError(message, where="/postprocess", remedy="Leave that knob out.") from error
    detector = build_detector(model, len(classes), pretrained=False)
    load_weights(detector, description.path)
    return Finished(
        detector=detector.eval().requires_grad_(False),
        classes=list(classes),
        scale=config.scale or description.scale or ScaleConfig(),
        digest=file_digest(description.path),
    )


def _named(config: EvaluateConfig | ExportConfig) -> Path:
    if isinstance(config.weights, FileRef):
        return Path(config.weights.file)
    raise ConfigError(
        f"the weights are those of the job {config.weights.job!r}, which are not at hand here",
        where="/weights/job",
        remedy="Run this through the service, or name a file: `weights.file`.",
    )
