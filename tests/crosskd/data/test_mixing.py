"""Mosaic and MixUp: which images come together, where their boxes stand, and when there are none any more."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from crosskd.data.coco import Example
from crosskd.data.colour import recoloured
from crosskd.data.mixing import Key, Mixed, mixed_batch
from crosskd.data.transforms import Sample
from crosskd.spec.config import AugmentConfig, HSVConfig, PixelConfig, TrainConfig

GREY = PixelConfig(padding=114)
PLACES = {0: (10, 10, 40, 30), 1: (30, 4, 60, 44), 2: (2, 20, 30, 40)}
SIZES = {0: (64, 48), 1: (80, 48), 2: (48, 64)}  # width, height
YOLOX: dict[str, Any] = {"mosaic": {}, "affine": {"degrees": 0, "shear": 0, "scales": (0.5, 1.5)}, "mixup": {}}
RTMDET: dict[str, Any] = {
    "mosaic": {"cached": True},
    "crop": {"scales": (0.5, 2.0)},
    "mixup": {"cached": True, "probability": 0.5},
}


def augment(**changes: Any) -> AugmentConfig:
    return AugmentConfig.model_validate({"letterbox": [64], "short_edges": [64], "long_edge": 64} | changes)


def image(index: int) -> Example:
    """A black image with a white box, of which the label is its index; every fourth has none."""
    width, height = SIZES[index % 3]
    pixels = np.zeros((height, width, 3), np.uint8)
    boxes = np.zeros((0, 4), np.float32)
    if index % 4 != 3:
        x1, y1, x2, y2 = PLACES[index % 3]
        pixels[y1:y2, x1:x2] = 255
        boxes = np.array([PLACES[index % 3]], np.float32)
    return Example(100 + index, Image.fromarray(pixels), boxes, np.full(len(boxes), index))


class Images:
    """A split of `count` images, which writes down what is read of it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read: list[int] = []

    def __call__(self, index: int) -> Example:
        self.read.append(index)
        return image(index)

    def batch(self, config: AugmentConfig, indices: list[int], epoch: int = 0, epochs: int = 30) -> Mixed:
        keys = [Key(epoch, index) for index in indices]
        return mixed_batch(keys, self, images=self.count, config=config, pixels=GREY, seed=3, epochs=epochs)


def white(sample: Sample, box: np.ndarray) -> float:
    """The least share of white of the pixels in the middle of a box."""
    x1, y1, x2, y2 = (box + np.array([3, 3, -3, -3])).round().clip(0).astype(int)
    return float(sample.pixels[y1:y2, x1:x2].min(initial=255)) / 255


@pytest.mark.parametrize("method", [YOLOX, RTMDET, {"mosaic": {}}, {"crop": {}}, {}])
@pytest.mark.parametrize("mixes", [True, False])
def test_every_box_stands_on_its_object_and_every_object_has_its_box(method: dict[str, Any], mixes: bool) -> None:
    config = augment(**method) if mixes else augment(**method | {"mixup": None})
    batch = Images(12).batch(config, list(range(12)))
    shown = 0
    for sample in batch.samples:
        height, width = sample.size
        assert max(height, width) <= batch.side == 64
        assert sample.boxes.shape == (len(sample.labels), 4)
        assert ((sample.boxes >= 0) & (sample.boxes <= [width, height, width, height])).all()
        shown += len(sample.boxes)
        least = 0.49 if config.mixup else 0.98  # of two images, the other may be black there
        assert all(white(sample, box) >= least for box in sample.boxes)
        covered = np.zeros((height, width), bool)
        for x1, y1, x2, y2 in sample.boxes:
            covered[int(y1) : int(np.ceil(y2)) + 1, max(0, int(x1) - 1) : int(np.ceil(x2)) + 1] = True
        if config.mixup is None:
            assert sample.pixels[~covered].max(initial=0) <= 160  # black, and grey around it
    assert shown
    assert (batch.boxes - batch.left_out) == shown


def test_a_mosaic_is_of_the_image_and_of_others_and_a_cached_one_of_its_batch() -> None:
    shown = {}
    for cached in (False, True):
        images = Images(1000)
        batch = images.batch(augment(mosaic={"cached": cached}), [4, 5, 6, 8])
        labels = [set(sample.labels.tolist()) for sample in batch.samples]
        shown[cached] = set().union(*labels)
        assert [sample.image_id for sample in batch.samples] == [104, 105, 106, 108]
        assert (
            sum(index in found for index, found in zip([4, 5, 6, 8], labels, strict=True)) >= 3
        )  # cut off is possible
        assert sorted(set(images.read) & {4, 5, 6, 8}) == [4, 5, 6, 8]
        if cached:
            assert sorted(images.read) == [4, 5, 6, 8]  # each once
    assert shown[True] <= {4, 5, 6, 8}
    assert len(shown[False] - {4, 5, 6, 8}) >= 4


@pytest.mark.parametrize("method", [YOLOX, RTMDET, {"mosaic": {"cached": True}}, {}])
def test_stored_images_are_let_go_as_soon_as_they_are_small(method: dict[str, Any]) -> None:
    """A batch of photographs would else be in memory whole, in each loader process."""
    read, alive = list[weakref.ref[Image.Image]](), []

    def one(index: int) -> Example:
        alive.append(sum(seen() is not None for seen in read))
        example = image(index)
        read.append(weakref.ref(example.image))
        return example

    keys = [Key(0, index) for index in range(12)]
    mixed_batch(keys, one, images=12, config=augment(**method), pixels=GREY, seed=3, epochs=30)
    assert len(alive) >= 12
    assert max(alive) <= 1


def test_mixup_shows_two_images_half_each() -> None:
    images = Images(1000)
    plain = Images(1000).batch(augment(flip=0), [4])
    (sample,) = images.batch(augment(flip=0, mixup={"flip": 0, "scales": (1, 1)}), [4]).samples
    assert sample.labels[0] == 4
    other = images.read[1]
    beside = Images(1000).batch(augment(flip=0), [other])
    both = np.full((2, 64, 64, 3), 114)  # what is padded by nobody else before they are mixed
    for square, alone in zip(both, (plain, beside), strict=True):
        height, width = alone.samples[0].size
        square[:height, :width] = alone.samples[0].pixels
    assert np.array_equal(sample.pixels, both.sum(axis=0) // 2)
    assert sample.labels.tolist() == [4, *beside.samples[0].labels]
    assert np.array_equal(sample.boxes, np.concatenate([plain.samples[0].boxes, beside.samples[0].boxes]))


@pytest.mark.parametrize("scales", [(0.5, 0.5), (2.0, 2.0)])
@pytest.mark.parametrize("cached", [True, False])
def test_the_second_image_is_scaled(cached: bool, scales: tuple[float, float]) -> None:
    """Two like images, so that each box of the second is to be seen beside the first's."""
    config = augment(flip=0, mixup={"cached": cached, "scales": scales, "flip": 0})
    for sample in Images(1).batch(config, [0, 0, 0]).samples:
        first, second = sample.boxes[:, 2:] - sample.boxes[:, :2]
        assert first.tolist() == [30, 20]
        assert (second <= [15, 10]).all() if scales[0] < 1 else (second > [15, 20]).all()  # what is seen of it


@pytest.mark.parametrize("method", [YOLOX, RTMDET])
def test_the_last_epochs_go_without(method: dict[str, Any]) -> None:
    config = augment(**method | {"hsv": {}})
    without = config.model_copy(update={"mosaic": None, "mixup": None, "affine": None})
    for epoch, mixed in ((14, True), (15, False), (29, False)):
        ours, plain = (Images(12).batch(each, [0, 1, 2, 4], epoch).samples for each in (config, without))
        same = all(np.array_equal(a.pixels, b.pixels) for a, b in zip(ours, plain, strict=True))
        assert same is not mixed
    own = AugmentConfig.model_validate(config.model_dump() | {"mixup": {"off_last_epochs": 0}, "crop": None})
    assert len(Images(12).batch(own, [0], 29).samples[0].labels) == 2  # each has its own


@pytest.mark.parametrize("name", ["mosaic", "mixup"])
def test_so_many_are_mixed_as_the_probability_says(name: str) -> None:
    mixed = []
    for probability in (0.0, 0.3, 1.0):
        images = Images(1000)
        for index in range(100):
            before = len(images.read)
            images.batch(augment(**{name: {"probability": probability}}), [index])
            mixed.append(len(images.read) - before > 1)
    assert [sum(mixed[:100]), sum(mixed[200:])] == [0, 100]
    assert 18 <= sum(mixed[100:200]) <= 42


@pytest.mark.parametrize("method", [YOLOX, RTMDET])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("first", [0, 3])
def test_one_image_or_two_are_enough_and_so_are_images_without_boxes(
    method: dict[str, Any], count: int, first: int
) -> None:
    config, empty = augment(**method), first == 3

    def read(index: int) -> Example:
        return image(3 if empty else first + index)

    keys = [Key(0, index) for index in range(count)]
    batch = mixed_batch(keys, read, images=count, config=config, pixels=GREY, seed=0, epochs=30)
    assert len(batch.samples) == count
    assert all(max(sample.size) <= 64 for sample in batch.samples)
    assert all(sample.boxes.dtype == np.float32 for sample in batch.samples)
    assert (batch.boxes == 0) is empty


def test_a_batch_has_one_side_which_is_drawn_anew_for_each() -> None:
    config = augment(letterbox=[32, 64, 96], **RTMDET)
    sides = []
    for first in range(30):
        batch = Images(100).batch(config, [first, first + 1])
        assert all(max(sample.size) <= batch.side for sample in batch.samples)
        sides.append(batch.side)
    assert set(sides) == {32, 64, 96}


def test_an_image_alone_knows_its_scale_and_a_mixed_one_is_its_own_original() -> None:
    plain = Images(12).batch(augment(flip=0), [1]).samples[0]
    assert (plain.scale, plain.original_size) == ((64 / 80, 38 / 48), (48, 80))
    turned = Images(12).batch(augment(mosaic={}, affine={}), [1]).samples[0]
    assert (turned.scale, turned.original_size) == ((1.0, 1.0), (64, 64))


# --- colours ---------------------------------------------------------------------------------------------------------


def test_colours_change_by_what_is_allowed_and_greys_keep_their_hue() -> None:
    pixels = np.random.default_rng(0).integers(40, 200, (16, 16, 3), dtype=np.uint8)
    changes = [recoloured(pixels, HSVConfig(), np.random.default_rng(seed)) for seed in range(40)]
    untouched = sum(np.array_equal(pixels, changed) for changed in changes)
    assert 1 <= untouched <= 12  # an eighth
    brighter = [recoloured(pixels, HSVConfig(hue=0, saturation=0), np.random.default_rng(seed)) for seed in range(40)]
    peaks = [int(each.max(axis=2).astype(int).mean()) - int(pixels.max(axis=2).astype(int).mean()) for each in brighter]
    assert -31 <= min(peaks) < -8
    assert 8 < max(peaks) <= 31
    still = recoloured(pixels, HSVConfig(hue=0, saturation=0, value=0), np.random.default_rng(1))
    assert still is pixels


# --- what is refused -------------------------------------------------------------------------------------------------

SPLIT = {"annotations": "a.json", "images": "images"}


@pytest.mark.parametrize(
    ("augment", "place", "reason"),
    [
        ({"mosaic": {}}, ("mosaic",), "mosaic makes squares; give their side as `letterbox`"),
        ({"mixup": {}}, ("mixup",), "mixup makes squares"),
        ({"letterbox": [640], "affine": {}}, ("affine",), "affine is of mosaics; add `mosaic`"),
        ({"letterbox": [640], "mosaic": {}, "affine": {}, "crop": {}}, ("crop",), "leave one out"),
        ({"letterbox": [640], "crop": {"scales": [2, 0.1]}}, ("crop", "scales"), "scales must ascend, not"),
        ({"letterbox": [650]}, ("letterbox", 0), "multiple of 32"),
        ({"letterbox": []}, ("letterbox",), "at least 1"),
        ({"letterbox": [640], "short_edges": [480, 640]}, ("short_edges",), "that of evaluations alone; give one"),
        (
            {"letterbox": [640], "mosaic": {"off_last_epochs": 12}},
            ("mosaic", "off_last_epochs"),
            "off_last_epochs 12 leaves none of the 12 epochs",
        ),
        ({"letterbox": [640], "mixup": {}}, ("mixup", "off_last_epochs"), "off_last_epochs 15 leaves none of the 12"),
    ],
)
def test_what_would_not_be_heeded_is_refused(augment: dict[str, Any], place: tuple[Any, ...], reason: str) -> None:
    spec = {"data": {"train": SPLIT, "val": SPLIT}, "student": {"backbone": {"name": "resnet_tiny"}}}
    with pytest.raises(ValidationError, match=reason) as caught:
        TrainConfig.model_validate(spec | {"augment": augment})
    assert caught.value.errors()[0]["loc"] == ("augment", *place)
