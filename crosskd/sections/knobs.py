"""What every section of a configuration is made of: the base class and the bounded types. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Knobs(BaseModel):
    """Base of every section: unknown keys are errors, values are never changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


PathText = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e4)]
LearningRate = Annotated[float, Field(gt=0, le=100)]
Channels = Annotated[int, Field(ge=8, le=4096)]


class FileRef(Knobs):
    """A file of weights."""

    file: PathText


class JobRef(Knobs):
    """Weights that a former job of the service made."""

    job: Annotated[str, Field(min_length=1, max_length=64)]
    checkpoint: Literal["best", "last"] = "best"
