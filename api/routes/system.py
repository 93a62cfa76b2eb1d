"""What belongs to no job."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter

from api.http.authenticated import AuthenticatedRoute
from wire.presets import presets
from wire.system import Health, PresetList

router = APIRouter(tags=["system"], route_class=AuthenticatedRoute)

VERSION = version("crosskd")


# A coroutine, which needs no thread: those may all wait for a database that is away.
@router.get("/health")
async def get_health() -> Health:
    """Whether the process answers. It asks nothing of the database, so a probe kills no API that only waits for it."""
    return Health(status="ok", version=VERSION)


@router.get("/presets")
def list_presets() -> PresetList:
    """Ready-made specifications: add `data`, and the teacher's weights where there is a teacher."""
    return PresetList(items=presets())
