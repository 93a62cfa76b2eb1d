"""What belongs to no job."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter
from pydantic import BaseModel

from api.schemas.jobs import Preset
from api.schemas.presets import presets

router = APIRouter(tags=["system"])


class Health(BaseModel):
    status: str
    version: str


class PresetList(BaseModel):
    items: list[Preset]


@router.get("/health")
def get_health() -> Health:
    """Whether the process answers. It asks nothing of the database, so a probe kills no API that only waits for it."""
    return Health(status="ok", version=version("crosskd"))


@router.get("/presets")
def list_presets() -> PresetList:
    """Ready-made specifications: add `data`, and the teacher's weights where there is a teacher."""
    return PresetList(items=presets())
