"""What a weights file says of itself: its model, its classes, and the scale at which it was evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crosskd.errors import WeightsError
from crosskd.spec.config import ModelConfig, ScaleConfig
from crosskd.spec.evaluate_export import image_facts, scale_of
from crosskd.spec.results.input_contract import evaluation_scale, scale_in
from crosskd.weights.folder import folder_at, record, told_by
from crosskd.weights.native import read_header
from crosskd.weights.tensors import is_safetensors


@dataclass(frozen=True)
class Description:
    """Each answer is None where the file does not say it, and a `WeightsError` where it says what nobody can read."""

    name: str  # of the file
    recorded: Mapping[str, str]  # as `write_weights` wrote it beside the tensors
    where: str = ""  # of the file in the configuration, a JSON pointer

    def model(self) -> ModelConfig | None:
        if "model" not in self.recorded:
            return None
        try:
            return ModelConfig.model_validate_json(self.recorded["model"])
        except ValidationError as error:
            raise self._unknown("model", error.errors()[0]["msg"].removeprefix("Value error, ")) from error

    def classes(self, *, distinct: bool = False) -> list[str] | None:
        """Names in label order; if they are to be `distinct`, a name that stands there twice is a fault."""
        if "classes" not in self.recorded:
            return None
        try:
            return _class_names(self.recorded["classes"], distinct)
        except ValueError as error:
            raise self._unknown("classes", str(error)) from error

    def scale(self) -> ScaleConfig | None:
        """None also where only the `image_settings` are known, as of another project's file."""
        if "augment" not in self.recorded:
            return None
        try:
            recorded = json.loads(self.recorded["augment"])
            return scale_in(recorded) if recorded else scale_of(recorded)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self._no_scale() from error

    def evaluation_scale(self) -> ScaleConfig:
        """The scale at which the file is evaluated, by default where it does not say it: no field is None."""
        try:
            return evaluation_scale(json.loads(self.recorded.get("augment", "{}")))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self._no_scale() from error

    def image_settings(self) -> dict[str, Any]:
        """`antialias` and `sixteen_bit`: how images were read and resized in the training; by default as always.

        And `keep_ratio`, where the file says a size.
        """
        try:
            return image_facts(json.loads(self.recorded.get("augment", "{}")))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self._unknown(
                "images", "`antialias`, `sixteen_bit` or `keep_ratio` is none of the values it can have"
            ) from error

    def _no_scale(self) -> WeightsError:
        return self._unknown("scale", "it has no short edge, long edge and pad_to within their bounds")

    def _unknown(self, what: str, reason: str) -> WeightsError:
        return WeightsError(
            f"{self.name} describes its {what} in a way that this version does not know: {reason}",
            where=self.where,
            remedy="Save its bare state dict and name the model yourself, or write the file anew with this version.",
        )


def describe(path: Path, *, where: str = "") -> Description:
    """What the header of a safetensors file says, or the JSON of a folder; of another file, nothing.

    Raises `WeightsError`.
    """
    if (folder := folder_at(path)) is not None:
        return Description(path.name, record(told_by(folder)), where)
    return Description(path.name, read_header(path)[0] if is_safetensors(path) else {}, where)


def _class_names(recorded: str, distinct: bool) -> list[str]:
    """Raises `ValueError` for what is no list of (`distinct`) names."""
    try:
        names = json.loads(recorded)
    except RecursionError:
        raise ValueError("the class names are nested too deeply") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the class names are {names!r:.80}, not a list of strings")
    if distinct and len(set(names)) != len(names):
        raise ValueError("a class is named twice")
    return names
