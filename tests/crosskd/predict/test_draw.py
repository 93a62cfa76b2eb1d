"""Boxes on pictures: where, in which colour, and with whatever name."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from crosskd.predict.draw import LONGEST_SIDE, colour_of, drawn, png, shown

BOXES, SCORES, LABELS = np.array([[10.0, 30.0, 60.0, 70.0]]), np.array([0.5]), np.array([1])


@pytest.mark.parametrize("name", ["ring", "\x1b]0;title\x07", "x" * 300, "", "a\nb", "環"])
def test_a_box_has_its_edge_in_the_colour_of_its_class(name: str) -> None:
    image = Image.new("RGB", (100, 80), "white")
    picture = drawn(image, BOXES, SCORES, LABELS, ["other", name])
    assert picture.getpixel((35, 70)) == colour_of(1)
    assert picture.getpixel((80, 75)) == (255, 255, 255)
    assert image.getpixel((35, 70)) == (255, 255, 255)  # it is a copy


def test_a_large_picture_is_shrunk() -> None:
    picture = drawn(Image.new("RGB", (2 * LONGEST_SIDE, 20)), BOXES, SCORES, LABELS, ["a", "b"])
    assert picture.size == (LONGEST_SIDE, 10)
    assert Image.open(io.BytesIO(png(picture))).format == "PNG"


def test_a_class_keeps_its_colour_and_neighbours_differ() -> None:
    colours = [colour_of(label) for label in range(20)]
    assert len(set(colours)) == 20
    assert min(np.abs(np.subtract(a, b)).max() for a, b in pairwise(colours)) > 60


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ring", "ring"), ("a\x1b[31m", "a\\x1b[31m"), ("x" * 50, "x" * 39 + "…"), ("a\u202eb", "a\\u202eb")],
)
def test_a_name_is_shown_and_not_obeyed(name: str, expected: str) -> None:
    assert shown(name) == expected
