"""The teacher cache of a training: judged by its images, and opened."""

from __future__ import annotations

import logging

from crosskd.data.loader import Loader
from crosskd.distill.cache.keys import identity
from crosskd.distill.cache.room import Room
from crosskd.distill.cache.stores import DiskStore, MemoryStore, Store
from crosskd.distill.cache.teacher_cache import TeacherCache
from crosskd.distill.distiller import Distiller
from crosskd.engine import distributed
from crosskd.errors import ConfigError
from crosskd.runs.shared_files import CacheDisk
from crosskd.spec.config import TeacherCacheConfig, TrainConfig
from crosskd.spec.data.image_size import Size
from crosskd.spec.distill.teacher_cache import ONE_CANVAS, canvases, varying
from crosskd.spec.distill.teacher_cache_size import MIB, told

log = logging.getLogger(__name__)


def open_cache(
    config: TrainConfig, distiller: Distiller, loader: Loader, disk: CacheDisk | None
) -> TeacherCache | None:
    """The cache that `config` asks for, if it does; `loader` has its training images. Without a disk it is in memory.

    Raises `ConfigError` where batches come on several canvases, or the folder cannot be written.
    """
    if config.distill is None or (section := config.distill.cache) is None:
        return None
    canvas = _one_canvas(config, loader)
    images = len(loader.dataset) + (0 if (others := loader.source.unlabelled) is None else len(others))
    teacher = distiller.teacher.config
    known = config.model_copy(
        update={
            "data": config.data.model_copy(update={"classes": loader.classes}),
            "teacher": config.teacher and config.teacher.model_copy(update={"model": teacher}),
        }
    )
    log.info("%s", told(known, canvas, images))
    store = _store(section, identity(distiller.teacher, distiller.needs(), config.student.pixels, section), disk)
    return TeacherCache(store, section, mirrors=0 < config.augment.flip < 1)


def _one_canvas(config: TrainConfig, loader: Loader) -> Size:
    sizes = {(height, width) for height, width in loader.dataset.sizes.tolist()}
    if (others := loader.source.unlabelled) is not None:
        sizes |= {(height, width) for height, width in others.sizes.tolist()}
    found = canvases(config.augment, sizes)
    if what := varying(found):
        raise ConfigError(what, where="/distill/cache", remedy=ONE_CANVAS)
    return next(iter(found))


def _store(section: TeacherCacheConfig, name: str, disk: CacheDisk | None) -> Store:
    limit = section.limit_mib * MIB
    if section.store == "memory" or disk is None:
        return MemoryStore(limit)
    try:
        store = DiskStore(Room(disk.folder, disk.bytes), name, limit, processes=distributed.world_size())
    except OSError as error:
        raise ConfigError(
            f"the teacher cache cannot be kept in {disk.folder}: {error.strerror}",
            where="/distill/cache/store",
            remedy="Give the worker's user the right to write there, or use `store: memory`.",
        ) from error
    log.info("the teacher cache has %d MiB of this teacher already", store.bytes // MIB)
    return store
