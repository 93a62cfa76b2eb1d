"""A job's images and one of their thumbnails, for whoever answers with them: a list, a picture, a report."""

from __future__ import annotations

import hashlib
from typing import Annotated, NamedTuple

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from api.database import Database, DatabaseDep
from api.disk_cache import DiskCache
from api.images.pool import ThumbnailPool
from api.images.queries import ImageFile
from api.processes.pool import Refused
from api.services.answers import image_files, images
from api.services.answers.image_files import OpenImage
from api.services.answers.images import Located
from api.settings import Settings
from api.storage import Storage, StorageDep
from api.stores.threads import INDEXING


class Images(NamedTuple):
    """What an application has for images."""

    database: Database
    storage: Storage
    settings: Settings
    indexes: DiskCache
    pool: ThumbnailPool

    async def locate(self, job: str, step: int | None) -> tuple[Located, str]:
        """The index of a job's images, made if it is not there, and what it stands for. Raises as `images.make`."""
        sought = await run_in_threadpool(images.seek, self.database, self.storage, self.settings, job, step)
        path = await run_in_threadpool(self.indexes.known, sought.tag)
        if path is None:
            path = await INDEXING.run_if_soon(images.make, self.indexes, self.storage, self.settings, sought)
        return Located(sought.source, path), sought.tag

    async def open(self, located: Located, image: int) -> tuple[OpenImage, ImageFile]:
        """An image of the split. Raises as `image_files.open_image`, and `NotFound` for one that the split has not."""
        named = await run_in_threadpool(images.image_file, located, image)
        found = await run_in_threadpool(image_files.open_image, located.source, self.settings, image, named)
        return found, named

    async def thumbnail(self, located: Located, image: int, side: int) -> Thumbnail:
        """A thumbnail that is made when it is asked for. Raises as `open`."""
        found, named = await self.open(located, image)
        order = image_files.thumbnail_order(located.source, self.settings, named, side)
        tag = hashlib.sha256(f"{found.tag} {sorted(order.items())}".encode()).hexdigest()
        return Thumbnail(self.pool, tag, order, found, image, named)


class Thumbnail(NamedTuple):
    """The image is open until `close` or `content`."""

    pool: ThumbnailPool
    tag: str
    order: dict[str, int | str]
    found: OpenImage
    image: int
    named: ImageFile

    def close(self) -> None:
        self.found.file.close()

    async def content(self) -> bytes:
        """The JPEG.

        Raises:
            InvalidSpec: there is none of this image.
            TooManyRequests, NotOffered: as the pool does.
        """
        try:
            if (kept := self.pool.kept(self.tag)) is not None:
                return kept
            with self.pool.admitted():
                content = await run_in_threadpool(image_files.content_of, self.found, self.image, self.named)
                return await self.pool.make(self.tag, self.order, content)
        except Refused as error:
            raise image_files.refused(self.image, self.named, error) from None
        finally:
            self.close()


def _images(request: Request, database: DatabaseDep, storage: StorageDep) -> Images:
    state = request.app.state
    return Images(database, storage, state.settings, state.image_indexes, state.thumbnails)


ImagesDep = Annotated[Images, Depends(_images)]
