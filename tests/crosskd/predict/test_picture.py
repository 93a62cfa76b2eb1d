"""Images on their way to a graph, and what is refused before anything is decoded."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crosskd.data.coco import Example
from crosskd.data.images import ORIENTATION
from crosskd.data.transforms import plain_bilinear as by_torch
from crosskd.data.transforms import validation_sample
from crosskd.onnx.check import raw_batch
from crosskd.predict.picture import BadImage, decode, network_input, plain_bilinear
from crosskd.spec.evaluate_export import ScaleConfig, augment_at

SCALE = ScaleConfig(short_edge=64, long_edge=96, antialias=True, sixteen_bit="high_byte")


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("antialias", "keep_ratio"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("size", [(70, 121), (300, 90), (64, 96), (1, 400), (20, 30)])
def test_an_image_is_resized_as_an_evaluation_does_it(size: tuple[int, int], antialias: bool, keep_ratio: bool) -> None:
    scale, image = SCALE.model_copy(update={"antialias": antialias, "keep_ratio": keep_ratio}), noise(*size)
    example = Example(0, image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    expected, sizes = raw_batch([validation_sample(example, augment_at(scale))], scale.pad_to)
    found, found_sizes = network_input(image, scale)
    assert np.array_equal(found_sizes, sizes)
    assert found.shape == expected.shape
    assert keep_ratio or found.shape == (1, 3, 64, 64)
    assert np.abs(found - expected).max() <= (0 if antialias else 1)


@pytest.mark.parametrize(("size", "target"), [((300, 500), (90, 150)), ((30, 20), (97, 64)), ((1, 9), (5, 5))])
def test_without_antialiasing_as_torch_does_it(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = noise(*size)
    difference = np.abs(plain_bilinear(np.asarray(image), target).astype(int) - by_torch(image, target).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


def test_an_image_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image, _ = decode(stored(noise(40, 60), "JPEG", exif=exif), SCALE, max_pixels=10_000)
    assert image.size == (40, 60)


def test_a_dark_image_of_16_bits_is_told_of() -> None:
    dark = Image.fromarray(np.full((8, 8), 900, np.uint16))
    assert "nearly black" in decode(stored(dark), SCALE, max_pixels=100)[1]


HUGE = stored(Image.new("1", (10_000, 10_000)), compress_level=9)  # a hundred megapixels in some kilobytes


@pytest.mark.parametrize(
    ("content", "kind", "what"),
    [
        (b"\x89", "broken", "1 byte cannot be an image"),
        (b"", "broken", "0 bytes"),
        (b"<html><body>no image</body></html>", "format", "no image of a known format (JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9, "format", "no image of a known format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "broken", "header is broken"),
        (stored(noise(50, 60), "JPEG")[:900], "broken", "cannot be decoded"),
        (stored(noise(50, 60))[:-2000], "broken", "cannot be decoded"),
        (HUGE, "pixels", "10000 x 10000 pixels are more than the 64,000,000"),
        (stored(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "broken", "32-bit pixels"),
    ],
)
def test_what_is_no_image_to_use(content: bytes, kind: str, what: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode(content, SCALE, max_pixels=64_000_000)
    assert caught.value.kind == kind
    assert what in caught.value.message
    assert caught.value.remedy
