"""The processes that make thumbnails, and the thumbnails that were made last."""

from __future__ import annotations

from typing import Any

from api.kept_bytes import KeptBytes
from api.processes.pool import Kind, Process, ProcessPool
from api.settings import Settings

KEPT = 64 * 2**20  # bytes of thumbnails in memory


class ThumbnailPool(ProcessPool[Process]):
    """All of an API process's."""

    def __init__(self, settings: Settings) -> None:
        kind = Kind(
            what="thumbnails",
            module="api.images.process",
            arguments=(str(settings.thumbnail_memory), str(settings.thumbnail_seconds)),
            settings="THUMBNAIL",
            instead="fetch the image itself: the same path without /thumbnail",
            processes=settings.thumbnail_processes,
            queue=settings.thumbnail_queue,
            seconds=settings.thumbnail_seconds,
            memory=settings.thumbnail_memory,
        )
        super().__init__(kind, Process)
        self._kept = KeptBytes(KEPT)

    def kept(self, tag: str) -> bytes | None:
        """The thumbnail of that tag, if it was made a short while ago."""
        return self._kept.get(tag)

    async def make(self, tag: str, order: dict[str, Any], content: bytes) -> bytes:
        """Raises as `ask`."""
        _, picture = await self.ask(order, content)
        self._kept.put(tag, picture)
        return picture
