"""What belongs to no job, on the wire: health and presets."""

from __future__ import annotations

from pydantic import BaseModel, Field

from api.schemas.jobs import Preset


class Health(BaseModel):
    """`GET /health`: the process answers."""

    status: str
    version: str


class Ready(BaseModel):
    """`GET /ready`: everything that the service needs works."""

    status: str
    checks: list[str] = Field(description="What was tried.")


class PresetList(BaseModel):
    """`GET /presets`."""

    items: list[Preset]
