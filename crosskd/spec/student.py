"""The student of a training: a detector, and the detector's weights that it may begin with. Imports no torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, model_validator

from crosskd.spec import registry
from crosskd.spec.model import ModelConfig
from crosskd.spec.section import FileRef, JobRef, refused

_FORMS = {"quality_focal_beta", "focal_gamma", "focal_alpha", "l1_last_epochs"}  # knobs of losses that are no weights


class StudentConfig(ModelConfig):
    """A detector to train."""

    init: JobRef | FileRef | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Weights of a whole detector to begin with, of a job or of any file that `crosskd convert` reads. "
        "The backbone must be the same. Classes of the same name keep their rows, new ones begin anew; of another "
        "detector the backbone and the neck are taken.",
    )

    @model_validator(mode="before")
    @classmethod
    def _backbone_of_init(cls, data: Any) -> Any:
        """The detector brings its backbone: nothing else is fetched for it, but it counts as pretrained."""
        if isinstance(data, ModelConfig) and not isinstance(data, cls):  # such as the model of a weights file
            return {name: getattr(data, name) for name in ModelConfig.model_fields}
        if not isinstance(data, dict) or data.get("init") is None:
            return data
        given = data.get("backbone")
        given = given.model_dump(exclude_unset=True) if isinstance(given, BaseModel) else given
        if not isinstance(given, dict):
            return data
        name = given.get("name")
        if not isinstance(name, str) or name not in registry.BACKBONES:
            return data
        if given.get("init") not in (None, "random"):
            raise refused(
                "`student.init` brings the backbone's weights too; leave `backbone.init` out", "backbone", "init"
            )
        entry = registry.BACKBONES[name]
        chosen = {key: value for key, value in given.items() if value is not None}
        pretrained = {
            "frozen_stages": entry.frozen_stages,
            "norm_eval": entry.batch_norm and entry.norm_eval,
            "init": "random",
        }
        return {**data, "backbone": {**pretrained, **chosen}}

    @property
    def detection_weights(self) -> dict[str, float]:
        """The weights that its detection loss is made of, by their knobs of `losses`; none where there is no choice."""
        read = (knob.removeprefix("losses.") for knob in registry.DETECTORS[self.detector].reads if "losses." in knob)
        return {knob: getattr(self.losses, knob) for knob in sorted(set(read) - _FORMS)}

    @property
    def model(self) -> ModelConfig:
        """The detector alone, as its weights file describes it."""
        values = {name: getattr(self, name) for name in ModelConfig.model_fields}
        return ModelConfig.model_construct(_fields_set=self.model_fields_set - {"init"}, **values)
