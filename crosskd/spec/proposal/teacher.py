"""What a teacher's weights say of themselves: model, classes, size of images. Reads headers alone; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from crosskd.errors import WeightsError
from crosskd.spec.config import FileRef, TeacherConfig
from crosskd.spec.detr.folder import read_folder
from crosskd.spec.detr.folder_config import read_config
from crosskd.spec.evaluate_export import ScaleConfig, scale_of
from crosskd.spec.model import ModelConfig
from crosskd.spec.proposal.folder import expanded, require_text
from crosskd.spec.weights.file_kind import beginning_of
from crosskd.spec.weights.header import NotSafetensors, WeightsHeader, read_header
from crosskd.spec.weights.shapes import parameter_count

CONVERT = (
    "Write it anew, so that the file says its model: `crosskd convert FILE teacher.safetensors --to native` (see "
    "docs/training.md). Then name that file."
)


@dataclass(frozen=True)
class Teacher:
    """A detector in a file or in a folder of transformers; `classes` and `scale` are None where it does not say."""

    path: Path
    model: ModelConfig
    classes: list[str] | None
    scale: ScaleConfig | None

    @property
    def parameters(self) -> int:
        return parameter_count(self.model, len(self.classes or ["one"]))

    def text(self) -> str:
        known = f"{len(self.classes):,} classes" if self.classes else "classes that it does not name"
        backbone = self.model.backbone
        width = f" of width {backbone.width}" if backbone.width else ""
        parameters = f"{self.parameters / 1e6:.1f} million parameters"
        return f"{self.path.name!r}: {self.model.detector} on {backbone.name}{width}, {parameters}, {known}"


def look_at(path: Path) -> Teacher:
    """What the file or folder holds. Raises: `WeightsError`, `ConfigError`."""
    path = expanded(path).absolute()
    require_text(path)
    try:
        if path.is_dir():
            return _folder(path)
        if path.exists() and not path.is_file():  # to open a pipe would wait for ever
            raise WeightsError(f"{path} is neither a file nor a folder", remedy="Name the teacher's weights.")
        return _file(path)
    except FileNotFoundError:
        raise WeightsError(f"there is no file {str(path)!r}", remedy="Name the teacher's weights.") from None
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror}", remedy="Check the file and its rights."
        ) from None


def _folder(path: Path) -> Teacher:
    folder = read_folder(path.name, lambda name: (path / name).open("rb"))
    told = read_config(path.name, folder.config, folder.preprocessor)
    scale = scale_of(told.augment) if "short_edges" in told.augment else None
    return Teacher(path, told.model, told.classes, scale)


def _file(path: Path) -> Teacher:
    with path.open("rb") as file:
        beginning = beginning_of(file, path.suffix)
        if beginning.form == "none":
            raise WeightsError(f"{path.name} is {beginning.what}", remedy=beginning.remedy)
        if beginning.form == "pytorch":
            raise WeightsError(f"{path.name} is a file of PyTorch, which does not say its model", remedy=CONVERT)
        try:
            header = read_header(file)
        except NotSafetensors as error:
            message = f"{path.name} is no readable safetensors file: {error}"
            raise WeightsError(message, remedy="Export the weights again, or copy them anew.") from None
    try:
        model = ModelConfig.model_validate(header.json_metadata("model"))
    except (ValidationError, TypeError):
        raise WeightsError(f"{path.name} does not say which model it holds", remedy=CONVERT) from None
    return Teacher(path, model, _classes(path, header), _scale(header))


def _classes(path: Path, header: WeightsHeader) -> list[str] | None:
    try:
        return TeacherConfig(weights=FileRef(file=str(path)), classes=header.json_metadata("classes")).classes
    except ValidationError:
        return None


def _scale(header: WeightsHeader) -> ScaleConfig | None:
    recorded = header.json_metadata("augment")
    try:
        return scale_of(recorded) if isinstance(recorded, dict) and "short_edges" in recorded else None
    except (ValueError, TypeError):
        return None
