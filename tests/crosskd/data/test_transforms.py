from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from crosskd.data.coco import Example
from crosskd.data.normalise import Normalise
from crosskd.data.transforms import (
    collate,
    fitted,
    padded,
    recorded_scale,
    stacked,
    training_sample,
    validation_sample,
)
from crosskd.evaluation.cost import evaluation_size
from crosskd.evaluation.evaluate import original_boxes
from crosskd.spec.config import AugmentConfig, PixelConfig
from crosskd.spec.evaluate_export import augment_at, scale_of
from tests.support.coco_files import noise

PLAIN = PixelConfig(mean=(0, 0, 0), std=(1, 1, 1))


def example(width: int, height: int, boxes: list[list[float]], image: Image.Image | None = None) -> Example:
    return Example(
        image_id=7,
        image=image or noise(width, height),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.arange(len(boxes), dtype=np.int64),
    )


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("size", "edges", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1067)),  # the short side decides: 640 * 5 / 3 = 1066.67
        ((427, 640), (800, 1333), (800, 1199)),  # 640 * 800 / 427 = 1199.06
        ((375, 1242), (800, 1333), (402, 1333)),  # the long side decides: 375 * 1333 / 1242 = 402.48
        ((640, 480), (800, 1333), (1067, 800)),
        ((128, 128), (128, 128), (128, 128)),
        ((2, 5000), (100, 100), (1, 100)),  # never thinner than a pixel
    ],
)
def test_the_published_arithmetic(size, edges, expected):
    assert fitted(size, *edges) == expected


@given(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), st.integers(32, 900), st.integers(0, 900))
def test_a_fitted_image_touches_one_edge_and_exceeds_none(size, short, extra):
    long = short + extra
    fit = fitted(size, short, long)
    assert min(fit) <= short
    assert max(fit) <= long
    assert min(fit) == short or max(fit) == long


@given(st.tuples(st.integers(1, 2000), st.integers(1, 2000)), st.integers(1, 256))
def test_padding_is_the_next_multiple(size, multiple):
    for side, full in zip(size, padded(size, multiple), strict=True):
        assert full % multiple == 0
        assert 0 <= full - side < multiple


def four_around(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation written out, as OpenCV and torchvision have it: [h, w, 3] at `size`, not rounded."""
    places = []
    for wanted, there in zip(size, pixels.shape, strict=False):
        at = ((np.arange(wanted) + 0.5) * there / wanted - 0.5).clip(0, there - 1)
        low = np.floor(at).astype(int)
        places.append((low, np.minimum(low + 1, there - 1), at - low))
    (top, bottom, down), (left, right, across) = places
    down, across = down[:, None, None], across[None, :, None]
    upper = pixels[top][:, left] * (1 - across) + pixels[top][:, right] * across
    lower = pixels[bottom][:, left] * (1 - across) + pixels[bottom][:, right] * across
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize(("width", "height"), [(256, 192), (400, 130), (65, 48), (40, 33), (300, 1)])
@pytest.mark.parametrize("antialias", [None, True, False])
def test_images_are_resized_with_antialiasing_or_by_the_four_pixels_around(width, height, antialias):
    image = noise(width, height)
    config = AugmentConfig(short_edges=[64], long_edge=96, antialias=antialias)
    size = fitted((height, width), 64, 96)
    for sample in (
        validation_sample(example(width, height, [], image), config),
        training_sample(example(width, height, [], image), config.model_copy(update={"flip": 0}), rng()),
    ):
        assert sample.pixels.dtype == np.uint8
        assert sample.size == size
        if antialias is False:
            exact = four_around(np.asarray(image).astype(float), size)
            assert np.abs(sample.pixels - exact).max() < 1.5  # OpenCV's weights are as coarse
            assert abs((sample.pixels - exact).mean()) < 0.1
        else:
            assert np.array_equal(sample.pixels, np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)))


def test_boxes_are_scaled_with_the_image_on_each_axis():
    config = AugmentConfig(short_edges=[96], long_edge=200)
    sample = validation_sample(example(65, 48, [[5, 6, 65, 48]]), config)
    assert sample.size == (96, 130)
    assert sample.scale == (2.0, 2.0)
    assert sample.boxes.tolist() == [[10, 12, 130, 96]]
    assert sample.original_size == (48, 65)


def test_an_image_is_stretched_to_a_square_with_its_boxes_and_by_what_a_file_records():
    config = AugmentConfig(short_edges=[96], long_edge=200, keep_ratio=False)
    recorded = augment_at(scale_of(json.loads(recorded_scale(config))))
    for settings in (config, recorded):
        sample = validation_sample(example(64, 48, [[5, 6, 64, 48]]), settings)
        assert sample.size == (96, 96)
        assert sample.scale == (1.5, 2.0)
        assert sample.boxes.tolist() == [[7.5, 12, 96, 96]]
    assert "keep_ratio" not in json.loads(recorded_scale(AugmentConfig()))  # as before there was a choice
    assert evaluation_size(config) == (96, 96)
    with pytest.raises(ValidationError, match="a letterbox keeps the ratio"):
        AugmentConfig(keep_ratio=False, letterbox=[96])


def test_validation_takes_its_own_edge_or_the_largest_and_never_flips():
    image = example(64, 48, [])
    assert validation_sample(image, AugmentConfig(short_edges=[64, 96], flip=1)).size == (96, 128)
    sample = validation_sample(image, AugmentConfig(short_edges=[64], val_short_edge=48, flip=1))
    assert np.array_equal(sample.pixels, np.asarray(image.image))


def test_flip_mirrors_pixels_and_boxes():
    image = example(64, 48, [[4, 6, 24, 16]])
    sample = training_sample(image, AugmentConfig(short_edges=[48], flip=1), rng())
    assert np.array_equal(sample.pixels, np.asarray(image.image)[:, ::-1])
    assert sample.boxes.tolist() == [[40, 6, 60, 16]]
    assert sample.labels.tolist() == [0]


def test_what_a_box_frames_stays_framed_when_flipped_and_resized():
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[6:16, 4:24] = 255
    image = example(64, 48, [[4, 6, 24, 16]], Image.fromarray(pixels))
    sample = training_sample(image, AugmentConfig(short_edges=[144], flip=1), rng())
    rows, columns = np.nonzero(sample.pixels[:, :, 0] > 127)
    framed = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(sample.boxes[0] - framed).max() <= 1


def test_flip_and_short_edge_are_drawn_by_their_probabilities():
    image = example(64, 48, [[0, 0, 10, 10]])
    config = AugmentConfig(short_edges=[32, 48, 64], flip=0.25)
    samples = [training_sample(image, config, rng(seed)) for seed in range(400)]
    flipped = np.mean([sample.boxes[0, 0] > 0 for sample in samples])
    heights = [sample.size[0] for sample in samples]
    assert 0.17 < flipped < 0.33
    assert all(100 < heights.count(edge) < 167 for edge in (32, 48, 64))


def test_normalisation_and_channel_order():
    image = example(64, 48, [])
    sample = validation_sample(image, AugmentConfig(short_edges=[48]))
    values = torch.from_numpy(np.asarray(image.image).copy()).permute(2, 0, 1).float()
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    for order, source in (("rgb", values), ("bgr", values.flip(0))):
        batch = collate([sample], PixelConfig(mean=mean, std=std, order=order), 1)
        expected = (source - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        assert torch.equal(batch.images[0], expected)


def test_a_batch_is_padded_with_zeros_and_tells_both_sizes():
    config = AugmentConfig(short_edges=[48], long_edge=64)
    samples = [validation_sample(example(w, h, [[1, 2, 3, 4]]), config) for w, h in ((64, 33), (40, 64))]
    batch = collate(samples, PixelConfig(), 32)
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.images.dtype == torch.float32
    assert batch.targets.sizes == [(33, 64), (64, 40)]
    assert batch.targets.padded == [(64, 64), (64, 64)]
    assert not batch.images[0, :, 33:].any()
    assert not batch.images[1, :, :, 40:].any()
    assert batch.images[0, :, :33].all()
    assert batch.targets.boxes[0].shape == (1, 4)
    assert batch.targets.labels[0].dtype == torch.int64
    assert batch.image_ids == [7, 7]
    assert batch.original_sizes == [(33, 64), (64, 40)]


def test_a_batch_can_be_padded_with_a_value_before_normalisation():
    sample = validation_sample(example(64, 33, []), AugmentConfig(short_edges=[48], long_edge=64))
    pixels = PixelConfig(mean=(100.0, 114.0, 120.0), std=(2.0, 3.0, 4.0), order="bgr", padding=114.0)
    batch = collate([sample], pixels, 64)
    plain = collate([sample], pixels.model_copy(update={"padding": None}), 64)
    assert torch.equal(batch.images[:, :, :33], plain.images[:, :, :33])
    around = torch.tensor([7.0, 0.0, -1.5])[:, None, None].expand(3, 31, 64)
    assert torch.equal(batch.images[0, :, 33:], around)


def test_each_image_tells_its_own_padded_size():
    config = AugmentConfig(short_edges=[64], long_edge=200)
    samples = [validation_sample(example(w, h, []), config) for w, h in ((64, 64), (150, 64))]
    assert collate(samples, PLAIN, 32).targets.padded == [(64, 64), (64, 160)]


@given(st.integers(8, 400), st.integers(8, 400), st.integers(32, 300), st.integers(0, 300), st.booleans(), st.data())
def test_boxes_come_back_to_the_original_where_they_were(width, height, short, extra, ratio, data):
    x1, x2 = sorted(data.draw(st.tuples(st.floats(0, width, width=32), st.floats(0, width, width=32))))
    y1, y2 = sorted(data.draw(st.tuples(st.floats(0, height, width=32), st.floats(0, height, width=32))))
    image = example(width, height, [[x1, y1, x2, y2]], Image.new("RGB", (width, height)))
    config = AugmentConfig(short_edges=[short], long_edge=short + extra, keep_ratio=ratio)
    sample = validation_sample(image, config)
    assert ratio or sample.size == (short, short)
    back = original_boxes(sample.boxes.astype(np.float64), sample.scale, (height, width))
    assert np.abs(back - [x1, y1, x2, y2]).max() <= 1e-4 * max(width, height)


def test_bytes_become_the_very_numbers_that_numpy_makes_of_them():
    pixels = PixelConfig(order="bgr", padding=114.0)
    config = AugmentConfig(short_edges=[48], long_edge=64)
    samples = [validation_sample(example(w, h, []), config) for w, h in ((64, 33), (40, 64))]
    packed = stacked(samples, pixels, 32)
    assert packed.images.dtype == torch.uint8
    given = Normalise(pixels).batch(packed).images.numpy()
    for image, sample in zip(given, samples, strict=True):
        height, width = sample.size
        for channel in range(3):
            plane = sample.pixels[:, :, 2 - channel].astype(np.float32) - np.float32(pixels.mean[channel])
            assert (image[channel, :height, :width] == plane / np.float32(pixels.std[channel])).all()
            assert (image[channel, height:] == np.float32(pixels.outside[channel])).all()
            assert (image[channel, :, width:] == np.float32(pixels.outside[channel])).all()
