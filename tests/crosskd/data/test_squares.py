"""Squares: what a box framed before is framed behind every step, and what is not seen any more has no box."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from crosskd.data.coco import Example
from crosskd.data.squares import Canvas, affine_matrix, blank, cropped, fill_of, fit, mapped, paste
from crosskd.data.transforms import Sample, flipped
from crosskd.spec.config import AffineConfig, PixelConfig

GREY = (114, 114, 114)
BOX = (60, 30, 100, 70)  # white, on black


def white_box(width: int = 160, height: int = 120) -> Example:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return Example(3, Image.fromarray(pixels), np.array([BOX], np.float32), np.array([1]))


def framed(sample: Sample) -> np.ndarray:
    """x1 y1 x2 y2 of the white pixels."""
    rows, columns = np.nonzero(sample.pixels[:, :, 0] > 127 + 60)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


def crop(factor: float, place: tuple[float, float] = (0.0, 0.0), antialias: bool | None = None) -> Callable:
    return lambda sample: cropped(sample, factor, place, Canvas(96, GREY, antialias))


def through(**limits: object) -> Callable:
    config = AffineConfig.model_validate({"degrees": 0, "translate": 0, "scales": (1, 1), "shear": 0} | limits)

    def step(sample: Sample) -> Sample:
        matrix = affine_matrix(config, np.random.default_rng(5), sample.size, 96)
        return mapped(sample, matrix, Canvas(96, GREY, None))

    return step


@pytest.mark.parametrize(
    "step",
    [
        Canvas(160, GREY, None).around,
        lambda sample: Canvas(96, GREY, None).around(sample, left=-30, top=-20),
        lambda sample: flipped(Canvas(160, GREY, None).around(sample)),
        crop(0.5),
        crop(0.5, antialias=False),
        crop(0.73, (0.3, 0.9)),
        crop(1.0, (0.5, 0.5)),
        crop(1.4, (0.3, 0.2)),
        through(),
        through(scales=(0.4, 0.6)),
        through(translate=0.1),
        through(shear=8),
    ],
)
def test_what_a_box_frames_stays_framed(step: Callable) -> None:
    sample = step(fit(white_box(), 160, None))
    assert len(sample.boxes) == 1
    assert np.abs(sample.boxes[0] - framed(sample)).max() <= 1
    assert sample.boxes.dtype == np.float32


@pytest.mark.parametrize("factor", [0.2, 0.61, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.999999, 0.999999)])
def test_a_piece_lies_in_the_image_and_is_no_larger_than_the_square(factor: float, place: tuple[float, float]) -> None:
    whole = fit(white_box(), 160, None)
    piece = crop(factor, place)(whole)
    assert piece.size == (min(96, int(120 * factor + 0.5)), min(96, int(160 * factor + 0.5)))
    assert piece.scale == pytest.approx((factor, factor), rel=0.05)
    assert piece.pixels.min() == 0
    padded = Canvas(96, GREY, None).around(piece)
    assert padded.size == (96, 96)
    assert (padded.pixels[piece.size[0] :] == 114).all()


def test_a_turned_box_becomes_the_one_around_its_corners() -> None:
    sample = through(degrees=180)(fit(white_box(), 160, None))
    cut = sample.boxes[0]
    seen = framed(sample)
    assert (cut[:2] <= seen[:2] + 1).all()
    assert (cut[2:] >= seen[2:] - 1).all()
    assert sample.size == (96, 96)


@pytest.mark.parametrize(("left", "boxes"), [(-99, 1), (-100, 0), (-160, 0), (30, 1), (36, 0)])
def test_a_box_of_which_less_than_a_pixel_is_seen_is_left_out(left: int, boxes: int) -> None:
    shown = Canvas(96, GREY, None).around(fit(white_box(), 160, None), left=left)
    assert (len(shown.boxes), len(shown.labels)) == (boxes, boxes)


def test_an_image_is_fitted_up_and_down_and_an_equal_one_left_as_it_is() -> None:
    assert [fit(white_box(), side, None).size for side in (320, 160, 80)] == [(240, 320), (120, 160), (60, 80)]
    assert fit(white_box(4, 1000), 32, None).size == (32, 1)
    square = fit(white_box(160, 160), 160, None)
    assert Canvas(160, GREY, None).around(square) is square


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ({"padding": 114}, GREY),
        ({"mean": (123.675, 116.28, 103.53)}, (124, 116, 104)),
        ({"mean": (103.53, 116.28, 123.675), "order": "bgr"}, (124, 116, 104)),  # RGB, as images are here
        ({"mean": (-5, 300, 0)}, (0, 255, 0)),
    ],
)
def test_what_stands_around_an_image_is_what_the_detector_s_padding_is(pixels: dict, expected: tuple) -> None:
    fill = fill_of(PixelConfig.model_validate(pixels))
    assert fill == expected
    assert (blank((2, 3), fill) == expected).all()


@pytest.mark.parametrize("corner", [(-9, 2), (2, -9), (8, 0), (0, 8)])
def test_nothing_is_pasted_from_outside(corner: tuple[int, int]) -> None:
    canvas = blank((8, 8), GREY)
    paste(canvas, np.zeros((4, 4, 3), np.uint8), *corner)
    assert (canvas == 114).all()
