"""Batches of a split, in worker processes or in this one; the same batches either way."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from crosskd.data.coco import CocoDataset
from crosskd.data.image_faults import ImageFaults
from crosskd.data.mixing import Key
from crosskd.data.sampler import shard, training_batches, unlabelled_batches, validation_batches
from crosskd.data.source import BatchSource, Loaded, LoaderInput
from crosskd.data.transforms import fitted, padded, validation_edge
from crosskd.data.unlabelled import UnlabelledImages
from crosskd.data.upload import Upload
from crosskd.data.waiting import heed_stop
from crosskd.errors import CrossKDError, DataError
from crosskd.spec.config import LoaderConfig
from crosskd.structures import Batch

log = logging.getLogger(__name__)

ROOM = "Give it more (docker run --shm-size), or use fewer workers or smaller batches."


class _Order:
    """The sampler: the keys of the batches of one epoch from one position on."""

    def __init__(self) -> None:
        self.keys: list[list[Key]] = []

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class Loader:
    """Batches of a split. Which ones an epoch has depends on the seed, the epoch and nothing else.

    `corrupt` names the images that could not be read so far, and why; `dark` those of 16 bits that are nearly black.
    """

    def __init__(
        self,
        source: BatchSource,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.source, self.settings, self.rank, self.world_size = source, source.settings, rank, world_size
        self._stopping = stopping
        self._upload = Upload(self.settings.pixels, device)
        workers = self.settings.loader.workers
        self.corrupt: dict[str, str] = {}
        self.dark: dict[str, str] = {}
        self._batches = self._plan(0)
        self._order = _Order()
        self._loader: DataLoader[Loaded] = DataLoader(
            source,
            batch_size=None,  # a key of the source is a whole batch
            sampler=self._order,
            num_workers=workers,
            pin_memory=self._upload.device.type == "cuda",
            multiprocessing_context=_context() if workers else None,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else each start draws from torch's own, which a resume must find untouched
            persistent_workers=workers > 0 and self.settings.split == "train",  # a validation comes once in a while
        )

    @property
    def dataset(self) -> CocoDataset:
        return self.source.dataset

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return self.dataset.classes

    def __len__(self) -> int:
        """Batches in an epoch, the same in every epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `index` from number `start` on.

        Raises:
            DataError: an image cannot be read, and that is one more than `data.max_corrupt_images`.
            CrossKDError: a worker process died.
            NoAnswer: a stop was asked for while a worker process did not answer.
        """
        self._order.keys = self._plan(index)[start:]
        boxes = left_out = 0
        try:
            for loaded in self._batches_of_workers():
                if loaded.unsent:
                    raise CrossKDError(
                        f"a loader process could not send a batch: {loaded.unsent}",
                        where="/loader/workers",
                        remedy=f"/dev/shm is too small, or full. {ROOM}",  # noqa: S108 - it is only named
                    )
                self._record_corrupt(loaded)
                self._record_dark(loaded)
                boxes += loaded.boxes
                left_out += loaded.left_out
                if loaded.packed is not None:
                    yield self._upload(loaded.packed)
        except (RuntimeError, OSError, EOFError) as error:
            # A tensor that a worker has sent is fetched from the worker itself: its death may be a lost connection.
            died = "DataLoader worker" in str(error) or isinstance(error, OSError | EOFError)
            if not (died and self._loader.num_workers):
                raise
            raise CrossKDError(
                f"a loader process died: {error}",
                where="/loader/workers",
                remedy=f"It was killed, or ran out of memory or of /dev/shm. {ROOM}",
            ) from error
        if boxes:
            log.info(
                "epoch %d: of %d boxes in mixed images %d lay outside of what was shown, or were cut below a pixel",
                index + 1,
                boxes,
                left_out,
            )

    def _batches_of_workers(self) -> Iterator[Loaded]:
        batches = iter(self._loader)
        if self._loader.num_workers:
            heed_stop(batches, self._stopping)
        return batches

    def mix_in(self, images: UnlabelledImages) -> None:
        """Images without labels for each batch from now on, as `images.config` says; before the first epoch."""
        self.source.unlabelled = images

    def _plan(self, epoch: int) -> list[list[Key]]:
        """This rank's batches of an epoch."""
        settings, sizes = self.settings, self.dataset.sizes
        if settings.split == "train":
            wide = self._wide(sizes)
            batches = training_batches(wide, settings.batch_size, settings.seed, epoch)
            keys = [[Key(epoch, i) for i in batch] for batch in batches]
            if (others := self.source.unlabelled) is not None:
                count, their_wide = others.config.per_batch(settings.batch_size), self._wide(others.sizes)
                besides = unlabelled_batches(batches, wide, their_wide, count, settings.seed, epoch)
                for batch, taken in zip(keys, besides, strict=True):
                    batch += [Key(*place, unlabelled=True) for place in taken]
            return shard(keys, self.rank, self.world_size, even=True)
        short, long, ratio = validation_edge(settings.augment), settings.augment.long_edge, settings.augment.keep_ratio
        fits = [fitted((h, w), short, long, keep_ratio=ratio) for h, w in sizes.tolist()]
        steps = [padded(size, settings.augment.pad_to) for size in fits]
        batches = shard(validation_batches(steps, settings.batch_size), self.rank, self.world_size, even=False)
        return [[Key(epoch, i) for i in batch] for batch in batches]

    def _wide(self, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[N, 2] -> [N]: which go together; all where shapes do not matter."""
        wide: NDArray[np.bool_] = sizes[:, 1] >= sizes[:, 0]
        return wide if self.settings.loader.group_by_aspect else np.ones_like(wide)

    def _record_dark(self, loaded: Loaded) -> None:
        """Told once, at the first: a data set has one such image or thousands, and the manifest counts them."""
        for name, remark in loaded.dark.items():
            if not self.dark:
                log.warning("%s: %s; it is the first of them", name, remark)
            self.dark.setdefault(name, remark)

    def _record_corrupt(self, loaded: Loaded) -> None:
        for name, fault in loaded.corrupt.items():
            if name not in self.corrupt:
                self.corrupt[name] = fault
                log.warning("image skipped: %s", fault)
        allowed = min(self.settings.max_corrupt_images, len(self.dataset) - 1)
        if len(self.corrupt) > allowed:
            faults = ImageFaults()
            for fault in self.corrupt.values():
                faults.add(fault)
            images = "1 image" if faults.count == 1 else f"{faults.count} images"
            raise DataError(
                f"{images} cannot be read, more than the {allowed} allowed: {faults}",
                where=str(self.dataset.folder.root),
                remedy="Replace these images by sound ones, or take them out of the annotation file; or raise "
                "data.max_corrupt_images: as many are then skipped.",
            )


def build_loader(
    settings: LoaderInput,
    *,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    stopping: Callable[[], bool] = lambda: False,
) -> Loader:
    """The batches that `settings` describe.

    `rank` of `world_size` gets its share of the batches, which lie on `device` (`upload.py`). While a worker process is
    waited for, `stopping` is asked whether to go on.

    Raises:
        DataError: the annotation file or the image folder is broken.
    """
    train = settings.split == "train"
    dataset = CocoDataset(
        settings.files.annotations,
        settings.files.images,
        settings.classes,
        train=train,
        drop_empty=train and settings.loader.drop_empty,
        min_image_side=settings.loader.min_image_side if train else 0,
        min_side=settings.augment.min_side,
        max_image_pixels=settings.max_image_pixels,
        max_corrupt_images=settings.max_corrupt_images,
        roots=settings.roots,
        cache_bytes=_cache_bytes(settings.loader) if train else 0,
        as_is=settings.as_is,
        sixteen_bit=settings.augment.sixteen_bit or "high_byte",
    )
    source = BatchSource(dataset, settings)
    return Loader(source, rank=rank, world_size=world_size, device=device, stopping=stopping)


def _cache_bytes(config: LoaderConfig) -> int:
    """Of each process that decodes training images. The validation's processes live for one pass: nothing comes twice.

    Any worker may be given any image, so several keep the same ones, and more workers keep fewer different ones.
    """
    return config.cache_mib * 2**20 // max(1, config.workers)


def _context() -> BaseContext:
    """Workers fork from a clean server: forking this process would copy its threads' locks and its CUDA state."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once, not once per worker
    return context


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process ends its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # What the thread of a queue cannot send is lost, and the training would wait for it for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_exit_with_error)  # type: ignore[attr-defined]


def _exit_with_error(_error: Exception, _sent: object) -> None:
    traceback.print_exc()
    os._exit(1)  # which the training notices


def _exit_with_parent() -> None:
    """PyTorch's own watch looks at the process that forked us: the fork server, which outlives a killed training."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
