from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crosskd.data.loader import Loader, build_loader
from crosskd.data.mixing import Key
from crosskd.data.packed_batch import PackedBatch
from crosskd.errors import CrossKDError, DataError
from crosskd.runs.loader_input import of_training
from crosskd.spec.config import PixelConfig
from crosskd.structures import Batch
from tests.support.coco_files import config, loader_of, many, write
from tests.support.loader_workers import limited

PLAIN = {"short_edges": [48, 64, 80], "long_edge": 128}
STRETCHED = {"short_edges": [32, 64, 96], "keep_ratio": False}
SQUARE = {"short_edges": [64], "long_edge": 64, "letterbox": [64, 96], "hsv": {}, "mosaic": {}, "mixup": {}}
YOLOX = SQUARE | {"affine": {}, "mixup": {}}
RTMDET = SQUARE | {"mosaic": {"cached": True}, "crop": {}, "mixup": {"cached": True, "probability": 0.5}}
LONG = {"epochs": 30, "milestones": []}
SIZES = [(64, 48), (48, 64), (64, 64), (80, 40), (40, 80), (64, 48), (50, 50), (64, 32), (48, 64), (64, 48)]


@pytest.fixture(autouse=True)
def _no_process_is_left():
    """What an error leaves of a loader waits five seconds for each of its processes, in whichever test frees it."""
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, many(SIZES))
    return tmp_path


def fingerprint(batch: Batch) -> tuple:
    boxes = tuple(tuple(map(tuple, box.tolist())) for box in batch.targets.boxes)
    return tuple(batch.image_ids), batch.images.double().sum().item(), boxes, tuple(batch.targets.sizes)


def fingerprints(loader: Loader, epoch: int, start: int = 0) -> list[tuple]:
    return [fingerprint(batch) for batch in loader.epoch(epoch, start)]


def break_image(folder: Path, *numbers: int) -> None:
    for number in numbers:
        path = folder / "images" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_nearly_black_are_told_once_and_counted(tmp_path, caplog, workers):
    write(tmp_path, many([(64, 48)] * 5))
    for name in ("1.png", "3.png"):
        values = np.random.default_rng(0).integers(0, 4096, (48, 64), dtype=np.uint16)
        Image.fromarray(values).save(tmp_path / "images" / name)
    peaks = {}
    for sixteen_bit in (None, "own_range"):
        augment = {"short_edges": [48], "long_edge": 64, "sixteen_bit": sixteen_bit}
        loader = loader_of(config(tmp_path, loader={"workers": workers}, augment=augment, batch_size=1), "val")
        peaks[sixteen_bit] = [float(batch.images.max()) > 2 for batch in loader]
        assert sorted(loader.dark) == ([] if sixteen_bit else ["1.png", "3.png"])
    assert peaks == {None: [True, False, True, False, True], "own_range": [True] * 5}
    assert caplog.text.count("nearly black") == 1


@pytest.mark.parametrize("augment", [PLAIN, YOLOX, RTMDET])
def test_workers_change_nothing(folder, augment):
    alone = loader_of(config(folder, augment=augment, schedule=LONG), "train")
    helped = loader_of(config(folder, augment=augment, schedule=LONG, loader={"workers": 2}), "train")
    for epoch in range(2):
        assert fingerprints(alone, epoch) == fingerprints(helped, epoch)
    assert fingerprints(alone, 0) != fingerprints(alone, 1)


@pytest.mark.parametrize("augment", [PLAIN, STRETCHED, YOLOX, RTMDET])
def test_a_resume_in_the_middle_of_an_epoch_gets_the_very_same_batches(folder, augment):
    settings = config(folder, augment=augment, schedule=LONG)
    whole = fingerprints(loader_of(settings, "train"), 3)
    for start in range(len(whole) + 1):
        assert fingerprints(loader_of(settings, "train"), 3, start) == whole[start:]


def test_an_epoch_that_was_left_early_disturbs_no_later_one(folder):
    loader = loader_of(config(folder, loader={"workers": 1}), "train")
    expected = fingerprints(loader, 1)
    left = loader.epoch(0)
    next(left)
    left.close()
    assert fingerprints(loader, 1) == expected


def test_an_image_is_augmented_anew_in_each_epoch(folder):
    settings = config(folder, batch_size=len(SIZES), augment={"short_edges": list(range(32, 64)), "long_edge": 128})
    loader = loader_of(settings, "train")
    sizes = []
    for epoch in range(2):
        (batch,) = loader.epoch(epoch)
        sizes.append(dict(zip(batch.image_ids, batch.targets.sizes, strict=True)))
    assert sum(sizes[0][image_id] != sizes[1][image_id] for image_id in sizes[0]) > 5


def test_another_seed_gives_other_batches(folder):
    first, same, other = (fingerprints(loader_of(config(folder, seed=seed), "train"), 0) for seed in (1, 1, 0))
    assert first == same != other


def test_length_is_the_number_of_batches(folder):
    loader = loader_of(config(folder), "train")
    assert len(loader) == len(list(loader.epoch(0))) == len(list(loader.epoch(7))) == 3
    validation = loader_of(config(folder, evaluation={"batch_size": 2}), "val")
    assert len(validation) == len(list(validation))


def test_wide_and_tall_images_come_in_batches_of_their_own(folder):
    loader = loader_of(config(folder, batch_size=2), "train")
    for batch in list(loader)[:-1]:
        assert len({width >= height for height, width in batch.original_sizes}) == 1
    mixed = loader_of(config(folder, batch_size=2, loader={"workers": 0, "group_by_aspect": False}), "train")
    assert any(len({w >= h for h, w in batch.original_sizes}) == 2 for batch in mixed)


def test_small_images_are_left_out_of_the_training_alone(tmp_path):
    write(tmp_path, many([(64, 48), (64, 31), (30, 64)]))
    settings = config(tmp_path, loader={"workers": 0, "min_image_side": 32})
    assert [len(loader_of(settings, split).dataset) for split in ("train", "val")] == [1, 3]


def test_validation_has_every_image_once_unpadded_by_others_and_unaugmented(folder):
    loader = loader_of(config(folder, augment={"short_edges": [64], "long_edge": 128, "flip": 1}), "val")
    batches = list(loader)
    assert sorted(i for batch in batches for i in batch.image_ids) == [100 + 3 * i for i in range(len(SIZES))]
    for batch in batches:
        assert set(batch.targets.padded) == {tuple(batch.images.shape[2:])}
    assert [fingerprint(batch) for batch in batches] == [fingerprint(batch) for batch in loader]


def test_ranks_share_an_epoch(folder):
    settings = config(folder, batch_size=2)
    ranks = [loader_of(settings, "train", rank=rank, world_size=2) for rank in range(2)]
    parts = [[i for batch in rank for i in batch.image_ids] for rank in ranks]
    assert len(ranks[0]) == len(ranks[1])
    assert set(parts[0]) | set(parts[1]) == {100 + 3 * i for i in range(len(SIZES))}


def test_a_batch_is_stretched_to_one_square_and_the_next_to_another(folder):
    settings = config(folder, batch_size=2, augment=STRETCHED, loader={"group_by_aspect": False})
    sides = set()
    for epoch in range(4):
        for batch in loader_of(settings, "train").epoch(epoch):
            (size,) = set(batch.targets.sizes)
            assert tuple(batch.images.shape[2:]) == size
            assert size[0] == size[1]
            sides.add(size[0])
    assert sides == {32, 64, 96}
    assert {batch.images.shape[2:] for batch in loader_of(settings, "val")} == {(96, 96)}


@pytest.mark.parametrize("augment", [PLAIN, STRETCHED, YOLOX, RTMDET])
def test_the_batches_of_several_ranks_are_those_of_one(folder, augment):
    settings = config(folder, batch_size=2, augment=augment, schedule=LONG)
    alone = fingerprints(loader_of(settings, "train"), 4)
    ranks = [fingerprints(loader_of(settings, "train", rank=rank, world_size=2), 4) for rank in range(2)]
    assert [batch for pair in zip(*ranks, strict=True) for batch in pair][: len(alone)] == alone


def test_squares_are_padded_as_the_detector_pads_and_tell_what_is_image(folder):
    augment = {"short_edges": [64], "long_edge": 64, "letterbox": [96], "pad_to": 64}
    settings = replace(of_training(config(folder, augment=augment), "train"), pixels=PixelConfig(padding=114))
    outside = torch.tensor(settings.pixels.outside)[:, None, None]
    for batch in build_loader(settings):
        assert batch.images.shape[2:] == (96, 96)
        assert set(batch.targets.padded) == {(96, 96)}
        for image, (height, width) in zip(batch.images, batch.targets.sizes, strict=True):
            assert max(height, width) == 96
            assert (image[:, height:] == outside).all()
            assert (image[:, :, width:] == outside).all()
            assert not (image[:, :height, :width] == outside).all(dim=0).all(dim=0).any()


def test_boxes_that_mixing_leaves_out_are_told_each_epoch(folder, caplog):
    settings = config(folder, augment=RTMDET | {"crop": {"scales": (2, 2)}}, schedule=LONG)
    with caplog.at_level("INFO"):
        shown = sum(len(boxes) for batch in loader_of(settings, "train").epoch(1) for boxes in batch.targets.boxes)
    (told,) = [record.getMessage() for record in caplog.records if "in mixed images" in record.getMessage()]
    went_in, left_out = (int(number) for number in re.findall(r" (\d+) ", told))
    assert told.startswith("epoch 2: ")
    assert 0 < went_in - left_out == shown < went_in


class TensorCount(pickle.Pickler):
    """Counts the tensors in what it is given, as the queue of a loader process meets them."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.tensors: list[torch.Tensor] = []

    def persistent_id(self, value):
        if isinstance(value, torch.Tensor):
            self.tensors.append(value)
            return len(self.tensors)
        return None


@pytest.mark.parametrize("images", [1, 4, 8])
def test_a_batch_travels_in_three_tensors_however_many_images_it_has(folder, images):
    loader = loader_of(config(folder, batch_size=images), "train")
    count = TensorCount()
    count.dump(loader.source[[Key(0, i) for i in range(images)]])
    assert len(count.tensors) == 3


def test_a_parcel_is_opened_as_it_was_packed(folder):
    batch = next(iter(loader_of(config(folder, loader={"workers": 0, "drop_empty": False}), "train")))
    boxes = [torch.rand(n, 4) for n in (2, 0, 3, 0)]
    labels = [torch.arange(n) for n in (2, 0, 3, 0)]
    batch = replace(batch, targets=replace(batch.targets, boxes=boxes, labels=labels))
    opened = PackedBatch.of(batch).open()
    for ours, theirs in zip(opened.targets.boxes + opened.targets.labels, boxes + labels, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert torch.equal(opened.images, batch.images)
    assert (opened.targets.sizes, opened.targets.padded) == (batch.targets.sizes, batch.targets.padded)
    assert (opened.image_ids, opened.scales) == (batch.image_ids, batch.scales)


def test_batches_have_the_pixels_of_the_detector(folder):
    settings = config(folder)
    plain = PixelConfig(order="bgr", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    given = of_training(settings, "val")
    ours, theirs = (next(iter(build_loader(each))) for each in (given, replace(given, pixels=plain)))
    height, width = ours.targets.sizes[0]
    mean, std = (torch.tensor(v)[:, None, None] for v in (settings.student.pixels.mean, settings.student.pixels.std))
    restored = (ours.images[0, :, :height, :width] * std + mean).flip(0)
    assert torch.allclose(restored, theirs.images[0, :, :height, :width], atol=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_arrives_as_a_data_error_that_names_it(folder, workers):
    break_image(folder, 6)
    loader = loader_of(config(folder, loader={"workers": workers}), "train")
    with pytest.raises(DataError, match=r"1 image cannot be read, more than the 0 allowed: .*6\.png") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(("workers", "augment"), [(0, PLAIN), (1, PLAIN), (0, YOLOX), (0, RTMDET)])
def test_broken_images_are_skipped_counted_and_named_up_to_the_limit(folder, workers, augment, caplog):
    break_image(folder, 2, 6)
    settings = config(
        folder, data={"max_corrupt_images": 2}, loader={"workers": workers}, augment=augment, schedule=LONG
    )
    loader = loader_of(settings, "train")
    batches = list(loader)
    assert len(batches) == len(loader)
    assert {len(batch.image_ids) for batch in batches} == {4}  # others took their places
    assert sorted(loader.corrupt) == ["2.png", "6.png"]
    assert caplog.text.count("image skipped") == 2
    break_image(folder, 7)
    with pytest.raises(DataError, match="3 images cannot be read, more than the 2 allowed"):
        list(loader)


def test_the_validation_leaves_broken_images_out(folder):
    break_image(folder, 2)
    loader = loader_of(config(folder, data={"max_corrupt_images": 1}), "val")
    seen = [i for batch in loader for i in batch.image_ids]
    assert sorted(seen) == [100 + 3 * i for i in range(len(SIZES)) if i != 2]


def test_a_data_set_of_broken_images_ends_rather_than_yielding_nothing(folder):
    break_image(folder, *range(len(SIZES)))
    loader = loader_of(config(folder, data={"max_corrupt_images": 1000}), "train")
    with pytest.raises(DataError, match=r"10 images cannot be read"):
        list(loader)


def test_a_loader_that_goes_ends_its_workers_at_once(folder):
    gc.disable()  # what is unused must go by itself
    try:
        loader = loader_of(config(folder, loader={"workers": 1}), "train")
        list(loader)
        (worker,) = loader._loader._iterator._workers
        del loader
        assert worker.exitcode == 0  # by its own end: one that was not told would be terminated five seconds later
    finally:
        gc.enable()


def test_a_killed_worker_is_a_clear_error(folder):
    loader = loader_of(config(folder, batch_size=1, loader={"workers": 1}), "train")
    batches = loader.epoch(0)
    next(batches)
    os.kill(loader._loader._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(CrossKDError, match="a loader process died"):
        list(batches)


@pytest.mark.parametrize(
    ("what", "said"), [("memory", "could not send a batch: .*File too large"), ("queue", "a loader process died")]
)
def test_a_batch_that_cannot_be_sent_ends_the_training(folder, what, said):
    """Otherwise it would wait for ever. As with a /dev/shm that is too small."""
    loader = loader_of(config(folder, batch_size=1, loader={"workers": 1}), "train")
    loader._loader.worker_init_fn = partial(limited, what)
    with pytest.raises(CrossKDError, match=said) as caught:
        list(loader.epoch(0))
    assert caught.value.failure_class == "infrastructure"
    assert "/dev/shm" in caught.value.remedy


SCRIPT = """
import os, sys, time
from crosskd.spec.config import TrainConfig
from tests.support.coco_files import loader_of

if __name__ == "__main__":
    batches = loader_of(TrainConfig.model_validate_json(sys.argv[1]), "train").epoch(0)
    next(batches)
    print("reading", flush=True)
    time.sleep(600)
"""


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            child, rest = stat.read_text().split(" (", 1)
            if int(rest.rsplit(") ", 1)[1].split()[1]) == pid:
                found |= {int(child)} | descendants(int(child))
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


def test_workers_end_with_a_training_that_is_killed(folder):
    values = config(folder, loader={"workers": 2}).model_dump_json()
    with subprocess.Popen([sys.executable, "-c", SCRIPT, values], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "reading\n"
        family = descendants(training.pid)
        assert len(family) >= 3  # the fork server and its two workers
        training.kill()
    deadline = time.monotonic() + 60
    while left := {pid for pid in family if running(pid)}:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
