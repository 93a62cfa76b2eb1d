"""What every model of a request's body is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from crosskd.spec.bounds import refuse_many_unknown


class RequestModel(BaseModel):
    """Unknown fields are errors, told one by one while they are few."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_many_unknown(cls, value: Any) -> Any:
        return refuse_many_unknown(cls, value)
