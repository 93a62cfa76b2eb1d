"""What every section of a configuration is made of: the base class and the bounded types. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from crosskd.spec.bounds import AtMost, refuse_many_unknown


def refused(message: str, *place: str | int) -> ValidationError:
    """What a validator of a whole section raises for the field at `place` below it: the fault is told there.

    Of fields that do not go together, name one that was sent: a default is nobody's fault.
    """
    error = PydanticCustomError("value_error", "{message}", {"message": message})
    return ValidationError.from_exception_data("section", [InitErrorDetails(type=error, loc=place, input=None)])


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are never changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_many_unknown(cls, value: Any) -> Any:
        return refuse_many_unknown(cls, value)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_boolean_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`batch_size: true` is a slip of the hand, which Pydantic would read as 1."""
        given = value if isinstance(value, list | tuple) else [value]
        wrong = any(isinstance(item, bool) for item in given)
        if wrong and bool not in _named_in(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("true and false are no values of this knob; give one of its type")
        return value


def given(section: Any, knob: str) -> Any:
    """A knob of a section that may be a model, an object as sent, or nothing; None where it is not set."""
    if isinstance(section, BaseModel):
        return getattr(section, knob) if knob in section.model_fields_set else None
    return section.get(knob) if isinstance(section, Mapping) else None


def _named_in(annotation: Any) -> set[Any]:
    """Every type that an annotation mentions."""
    return {annotation, *(found for inner in get_args(annotation) for found in _named_in(inner))}


PathText = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
MAX_CLASSES = 10_000
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
ClassNames = Annotated[list[ClassName], Field(min_length=1), AtMost(MAX_CLASSES)]
Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e4)]
LearningRate = Annotated[float, Field(gt=0, le=100)]
MAX_PIXELS = 1_000_000_000  # of an image, whatever a configuration would allow: three gigabytes as RGB
Channels = Annotated[int, Field(ge=8, le=4096)]


class FileRef(Section):
    """A file of weights, or a folder in which transformers saved a DETR."""

    file: PathText = Field(
        description="Path of the file: in one of the service's data roots, or relative to one. Weights of a whole "
        "detector may be a folder, too: one of transformers, with config.json and safetensors."
    )


class JobRef(Section):
    """Weights that another job of the service made, or is still to make."""

    job: Annotated[str, Field(min_length=1, max_length=64)] = Field(description="Id of the job.")
    checkpoint: Literal["best", "last"] = Field(default="best", description="Its best weights by AP, or its last.")
