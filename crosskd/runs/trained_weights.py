"""Finished weights: the detector in a file, built as the file or the configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from crosskd.convert.load import load_weights, narrow
from crosskd.detectors.detector import Detector, build_detector
from crosskd.errors import ConfigError
from crosskd.spec.config import AugmentConfig, EvaluateConfig, ExportConfig, FileRef, JobRef, ScaleConfig
from crosskd.spec.evaluate_export import augment_at, with_postprocess
from crosskd.weights.description import Description
from crosskd.weights.files import file_digest
from crosskd.weights.folder import require_agreement


@dataclass(frozen=True)
class TrainedDetector:
    """A detector that is only used any more."""

    detector: Detector
    classes: list[str]  # in label order, without those that stand for nothing
    scale: ScaleConfig  # with `antialias` and `sixteen_bit` filled in
    digest: str  # sha256 of the file

    @property
    def augment(self) -> AugmentConfig:
        """The scale as the data's transforms read it."""
        return augment_at(self.scale)


def weights_file(weights: JobRef | FileRef, given: Path | None = None, *, section: str = "") -> Path:
    """Where weights lie; `given` is the file behind a `JobRef`. Raises `ConfigError` without one.

    `section` is what has the field `weights`: a JSON pointer, empty for the configuration itself.
    """
    if given is not None:
        return given
    if isinstance(weights, FileRef):
        return Path(weights.file)
    where = f"{section}/weights"
    raise ConfigError(
        f"the weights are those of the job {weights.job!r}, which are not at hand here",
        where=f"{where}/job",
        remedy=f"Run this through the service, or name a file: `{where[1:].replace('/', '.')}.file`.",
    )


def load(
    config: EvaluateConfig | ExportConfig, path: Path, description: Description, classes: Sequence[str]
) -> TrainedDetector:
    """The detector with its weights, in evaluation mode on the CPU, knowing `classes`.

    These are all that the file names, or some of them: it is then narrowed.

    `description` is what the file `path` says of itself; what `config` says goes before it.

    Raises:
        ConfigError: nothing says which model it is, a folder says another one, or the model does not take a knob of
            `postprocess`.
        WeightsError: the file is not of that model.
    """
    require_agreement(config.model, path, "model")
    if (model := config.model or description.model()) is None:
        raise ConfigError(
            f"{path.name} does not say which model it holds",
            where="/model",
            remedy="Give `model`, the detector that the file was trained as.",
        )
    try:
        model = with_postprocess(model, config.postprocess)
    except ValidationError as error:
        message = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise ConfigError(message, where="/postprocess", remedy="Leave that knob out.") from error
    named = description.classes() or list(classes)
    detector = build_detector(model, len(named), pretrained=False)
    known = load_weights(detector, path).image_settings
    narrow(detector, named, classes, path.name)
    scale = config.scale or description.scale() or ScaleConfig()
    open_ones = {name: value for name, value in known.items() if getattr(scale, name) is None}
    return TrainedDetector(
        detector=detector.eval().requires_grad_(False),
        classes=list(classes),
        scale=scale.model_copy(update=open_ones),
        digest=file_digest(path),
    )
