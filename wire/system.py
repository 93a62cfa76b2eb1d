"""What belongs to no job, on the wire: health and presets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from wire.jobs import Preset

Part = Literal["database", "migrations", "broker", "storage"]


class Health(BaseModel):
    """`GET /health`: the process answers."""

    status: str = Field(description="Always `ok`: a process that answers is well.")
    version: str = Field(description="Version of the service.")


class Ready(BaseModel):
    """`GET /ready`: everything that was asked for works."""

    status: str = Field(description="Always `ready`; what is not ready is a problem with status 503.")
    checks: list[Part] = Field(description="What was tried.")


class PresetList(BaseModel):
    """`GET /presets`."""

    items: list[Preset] = Field(description="The presets, by name.")
