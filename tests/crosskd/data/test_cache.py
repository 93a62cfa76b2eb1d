"""The cache of decoded images: its limit, its copies, and batches that are the same with it and without."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crosskd.data.cache import ImageCache
from crosskd.data.loader import Loader
from crosskd.errors import DataError
from crosskd.spec.config import TrainConfig
from tests.support.coco_files import config, loader_of, many, noise, write

SIZES = [(640, 480)] * 4 + [(480, 640)] * 2
IMAGE = 3 * 640 * 480  # bytes; two of them fit into 2 MiB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder, many(SIZES))
    return folder


def loader(folder: Path, **changes: Any) -> Loader:
    return loader_of(settings(folder, **changes), "train")


def settings(folder: Path, **changes: Any) -> TrainConfig:
    augment = {"short_edges": [48, 64, 80], "long_edge": 128}
    return config(folder, batch_size=2, augment=augment, loader={"workers": 0} | changes)


def reads(folder: Path, monkeypatch: pytest.MonkeyPatch, loader: Loader, epochs: int) -> list[int]:
    """How many files each epoch decodes."""
    counts = []
    decode = loader.dataset.folder.read
    count = 0

    def counted(*args: Any) -> Image.Image:
        nonlocal count
        count += 1
        return decode(*args)

    monkeypatch.setattr(loader.dataset.folder, "read", counted)
    for epoch in range(epochs):
        count = 0
        list(loader.epoch(epoch))
        counts.append(count)
    return counts


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mib", [1, 4, 100])
def test_batches_are_the_same_bits_with_a_cache_and_without(folder: Path, workers: int, mib: int) -> None:
    plain, cached = loader(folder), loader(folder, workers=workers, cache_mib=mib)
    for epoch in range(3):
        for ours, theirs in zip(cached.epoch(epoch), plain.epoch(epoch), strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert ours.image_ids == theirs.image_ids
            for boxes, expected in zip(ours.targets.boxes, theirs.targets.boxes, strict=True):
                assert torch.equal(boxes, expected)


@pytest.mark.parametrize(("mib", "kept"), [(0, 0), (1, 1), (2, 2), (4, 4), (100, 6)])
def test_so_many_images_are_decoded_once_as_fit(
    folder: Path, mib: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = loader(folder, cache_mib=mib)
    assert reads(folder, monkeypatch, cached, 3) == [6, 6 - kept, 6 - kept]
    assert (len(cached.dataset.cache), cached.dataset.cache.bytes) == (kept, kept * IMAGE)
    assert cached.dataset.cache.bytes <= mib * 2**20


def test_each_worker_has_its_share_of_the_limit_and_begins_with_nothing(folder: Path) -> None:
    for workers, share in ((0, 10), (1, 10), (2, 5)):
        cache = loader(folder, workers=workers, cache_mib=10).dataset.cache
        assert cache.limit == share * 2**20
    cache.get(0, lambda: noise(8, 8))
    copied = pickle.loads(pickle.dumps(cache))
    assert (copied.limit, len(copied), copied.bytes) == (cache.limit, 0, 0)


def test_the_validation_keeps_nothing(folder: Path) -> None:
    assert loader_of(settings(folder, cache_mib=100), "val").dataset.cache.limit == 0


def test_what_is_done_to_a_copy_does_not_reach_the_kept_image() -> None:
    cache, image = ImageCache(10_000), noise(8, 4)
    for _ in range(3):
        found = cache.get(7, lambda: image.copy())
        assert np.array_equal(np.asarray(found), np.asarray(image))
        found.paste((0, 0, 0), (0, 0, 8, 4))


def test_a_fault_is_not_kept() -> None:
    cache = ImageCache(10_000)

    def broken() -> Image.Image:
        raise DataError("the image cannot be decoded")

    for _ in range(2):
        with pytest.raises(DataError):
            cache.get(1, broken)
    assert len(cache) == 0
    assert cache.get(1, lambda: noise(8, 4)).size == (8, 4)
