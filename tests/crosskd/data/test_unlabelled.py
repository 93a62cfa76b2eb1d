"""Images without labels: which are taken, and how they come into batches."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosskd.data.loader import Loader
from crosskd.data.sampler import unlabelled_batches
from crosskd.data.unlabelled import UnlabelledImages
from crosskd.errors import DataError
from crosskd.spec.config import UnlabelledConfig
from crosskd.structures import Batch
from tests.support.coco_files import config, loader_of, many, noise, write

SIZES = [(64, 48), (48, 64), (64, 64), (80, 40), (40, 80), (64, 48), (50, 50)]
OTHERS = 5
PLAIN = {"short_edges": [48, 64], "long_edge": 128}
MOSAIC = {"short_edges": [64], "long_edge": 64, "letterbox": [64, 96], "hsv": {}, "mosaic": {}, "mixup": {}}
LONG = {"epochs": 30, "milestones": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Labelled images in `images`, others in `more` and below it."""
    write(tmp_path, many(SIZES))
    (tmp_path / "more" / "deep").mkdir(parents=True)
    for number in range(OTHERS):
        width, height = SIZES[number]
        noise(width, height, seed=100 + number).save(
            tmp_path / "more" / ("deep" if number % 2 else "") / f"u{number}.png"
        )
    return tmp_path


def images(folder: Path, *, roots: tuple[Path, ...] = (), **section: Any) -> UnlabelledImages:
    settings = config(folder)
    training, validation = (loader_of(settings, split).dataset for split in ("train", "val"))
    made = UnlabelledConfig.model_validate({"images": str(folder / "more"), **section})
    return UnlabelledImages(made, training=training, validation=validation, roots=roots)


def loader(folder: Path, *, rank: int = 0, world_size: int = 1, ratio: float = 0.75, **changes: Any) -> Loader:
    made = loader_of(config(folder, schedule=LONG, **changes), "train", rank=rank, world_size=world_size)
    made.mix_in(images(folder, ratio=ratio))
    return made


def seen(batch: Batch) -> tuple[Any, ...]:
    boxes = [box.tolist() for box in batch.targets.boxes]
    return batch.image_ids, batch.images.double().sum().item(), boxes, batch.targets.sizes, batch.targets.unlabelled


@pytest.mark.parametrize("augment", [PLAIN, MOSAIC])
def test_workers_ranks_and_a_resume_change_nothing(folder: Path, augment: dict[str, Any]) -> None:
    whole = [seen(batch) for batch in loader(folder, augment=augment).epoch(1)]
    assert [seen(batch) for batch in loader(folder, augment=augment).epoch(1, 1)] == whole[1:]
    assert [seen(batch) for batch in loader(folder, augment=augment, loader={"workers": 1}).epoch(1)] == whole
    ranks = [[seen(b) for b in loader(folder, augment=augment, rank=r, world_size=2).epoch(1)] for r in (0, 1)]
    assert [batch for pair in zip(*ranks, strict=True) for batch in pair] == whole
    assert [seen(batch) for batch in loader(folder, augment=augment).epoch(0)] != whole


@pytest.mark.parametrize("augment", [PLAIN, MOSAIC])
def test_the_labelled_part_is_what_it_is_without_the_others(folder: Path, augment: dict[str, Any]) -> None:
    alone = loader_of(config(folder, schedule=LONG, augment=augment), "train").epoch(2)
    for batch, without in zip(loader(folder, augment=augment).epoch(2), alone, strict=True):
        given, known = batch.targets, len(without.images)
        assert (given.unlabelled, len(batch.images)) == (3, known + 3)
        assert all(len(boxes) == 0 for boxes in given.boxes[known:])
        assert batch.image_ids[:known] == without.image_ids
        assert [boxes.tolist() for boxes in given.boxes[:known]] == [b.tolist() for b in without.targets.boxes]
        for ours, theirs, (height, width) in zip(batch.images, without.images, without.targets.sizes, strict=False):
            assert ours[:, :height, :width].equal(theirs[:, :height, :width])
        assert all(batch.images[known:].flatten(1).std(1) > 0.3)  # they are no blank squares


def test_all_come_once_before_any_comes_again_and_go_with_batches_of_their_shape() -> None:
    wide, others = np.array([True] * 6 + [False] * 6), np.array([True, False] * 5)
    batches = [[0, 1, 2], [6, 7, 8], [3, 4, 5], [9, 10, 11]]
    taken = [unlabelled_batches(batches, wide, others, 2, seed=0, epoch=epoch) for epoch in range(5)]
    assert all(len(batch) == 2 for epoch in taken for batch in epoch)
    flat = [place for epoch in taken for batch in epoch for place in batch]
    assert set(flat) == {(turn, index) for turn in range(4) for index in range(10)}  # 5 epochs of 8 are 4 passes of 10
    own = [others[i] == wide[b[0]] for e in taken for b, chosen in zip(batches, e, strict=True) for _, i in chosen]
    assert sum(own) > 0.7 * len(own)
    assert taken[0] != unlabelled_batches(batches, wide, others, 2, seed=1, epoch=0)
    small = unlabelled_batches(batches, wide, others[:3], 2, seed=0, epoch=0)  # fewer than an epoch asks for
    assert sorted(Counter(i for batch in small for _, i in batch).values()) == [2, 3, 3]


def test_what_is_left_out_is_counted_and_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = folder / "more"
    write(folder, many(SIZES[:2]), name="val.json", images=False)
    shutil.copy(folder / "images" / "0.png", more / "a validation image.png")
    shutil.copy(folder / "images" / "3.png", more / "a training image.png")
    noise(48, 64, seed=1).save(folder / "images" / "1.png", format="PPM")
    content = (folder / "images" / "1.png").read_bytes()
    (more / "as long and with the same end.png").write_bytes(content[:20] + b"\0\0" + content[22:])
    (more / "broken.jpg").write_bytes(b"no image")
    (more / "notes.txt").write_text("not called an image")
    settings = config(folder, data={"val": {"annotations": str(folder / "val.json"), "images": str(folder / "images")}})
    training, validation = (loader_of(settings, split).dataset for split in ("train", "val"))
    with caplog.at_level(logging.WARNING):
        found = UnlabelledImages(UnlabelledConfig(images=str(more)), training=training, validation=validation)
    told = found.summary()
    counts = {"images": OTHERS + 4, "images_used": OTHERS + 2, "broken": 1, "missing": 0, "repeated": 0}
    assert told == counts | {"validation_images_left_out": 1, "training_images": 1, "list_sha256": found.digest}
    assert "1 of 9 images without labels are validation images, by their bytes, and are left out" in caplog.text
    assert "1 of 9 images without labels are training images, too" in caplog.text
    assert "not an image of a known format" in caplog.text


@pytest.mark.parametrize("form", ["json", "lines"])
def test_a_list_names_the_images(folder: Path, form: str) -> None:
    names = ["u4.png", "deep/u1.png", "./u4.png", "gone.png"]
    text = json.dumps(names) if form == "json" else "\n".join(["", *names]) + "\n"
    (folder / "list").write_text(text)
    found = images(folder, names=str(folder / "list"))
    assert found.names == ["u4.png", "deep/u1.png"]
    assert found.sizes.tolist() == [[80, 40], [64, 48]]
    assert (found.summary()["repeated"], found.summary()["missing"]) == (1, 1)
    assert found.digest != images(folder).digest == images(folder).digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}', "not a JSON list of names"),
        (b"[1, 2]", "not a JSON list of names"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"../images/0.png", "must be relative to the images folder"),
        (b"/etc/passwd", "must be relative to the images folder"),
        (b'["a\\u0000.png"]', "holds a NUL character"),
        (b"gone.png", "1 of 1 images are missing"),
        (b"", "the list of images names none"),
    ],
)
def test_a_bad_list_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "list").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        images(folder, names=str(folder / "list"))
    assert error.value.remedy


def test_nothing_left_and_links_out_of_the_data_are_refused(folder: Path, tmp_path_factory: Any) -> None:
    with pytest.raises(DataError, match=r"no image without labels is left to learn from: 7 of 7 .* are validation"):
        images(folder, images=str(folder / "images"))
    outside = tmp_path_factory.mktemp("outside")
    noise(64, 48, seed=7).save(outside / "x.png")
    (folder / "more" / "link.png").symlink_to(outside / "x.png")
    with pytest.raises(DataError, match="links that lead out of the data"):
        images(folder)
    assert "link.png" in images(folder, roots=(outside,)).names


def test_one_that_is_cut_short_is_skipped_as_a_labelled_one_is(folder: Path) -> None:
    path = folder / "more" / "u0.png"
    path.write_bytes(path.read_bytes()[:200])
    batches = list(loader(folder, ratio=1, data={"max_corrupt_images": 1}).epoch(0))
    assert all(batch.targets.unlabelled == 4 for batch in batches)
    strict = loader(folder, ratio=1)
    with pytest.raises(DataError, match="1 image cannot be read"):
        list(strict.epoch(0))
    # Two of one name in the two folders are two.
    path.rename(folder / "more" / "0.png")
    os.truncate(folder / "images" / "0.png", 300)
    allowed = loader(folder, ratio=1, data={"max_corrupt_images": 2})
    list(allowed.epoch(0))
    assert sorted(allowed.corrupt) == ["0.png", "0.png (without labels)"]
