"""What belongs to no job, on the wire: health and presets."""

from __future__ import annotations

from pydantic import BaseModel

from api.schemas.jobs import Preset


class Health(BaseModel):
    """`GET /health`: the process answers."""

    status: str
    version: str


class PresetList(BaseModel):
    """`GET /presets`."""

    items: list[Preset]
