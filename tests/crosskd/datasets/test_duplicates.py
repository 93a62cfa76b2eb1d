"""Images that are there more than once: exact, near, across splits, and among a hundred thousand."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from crosskd.datasets.duplicates import NEAR, find_duplicates, near_pairs
from crosskd.datasets.model import Source, SourceImage
from crosskd.datasets.perceptual import perceptual_hash
from tests.support.imports import BCCD, imported

PICTURES = sorted((BCCD / "images").iterdir())


def source(splits: dict[str, dict[str, tuple[str, int]]]) -> Source:
    """Of each split the images by name, with sha256 and perceptual hash."""
    found = {
        split: [SourceImage(name, "", [], sha256=sha256, phash=phash) for name, (sha256, phash) in images.items()]
        for split, images in splits.items()
    }
    return Source("coco", Path("/data"), [], found)


def test_copies_and_near_copies_are_counted_and_leaks_told() -> None:
    far, far2 = 2**40 - 1, (2**40 - 1) << 20
    found = find_duplicates(
        source(
            {
                "train": {"a": ("A", far), "b": ("B", far2), "c": ("A", far), "d": ("D", 0)},
                "val": {"e": ("A", far), "f": ("F", far ^ 0b111), "g": ("G", far2), "h": ("H", far ^ 0b11111)},
                "test": {"i": ("G", far2)},
            }
        ),
        near=True,
    )
    assert found.exact == 3  # c and e as a, i as g
    assert [[image.file_name for image in group.images] for group in found.exact_first] == [["a", "c", "e"], ["g", "i"]]
    assert found.leaks == 1
    assert [image.file_name for image in found.leaks_first[0].images] == ["a", "c", "e"]
    # f is near a (and its copies) and near h; g, and i with it, near b.
    assert found.near == 8
    assert found.near_leaks == 3  # f, g, i: h differs from a in five bits
    pairs = {tuple(image.file_name for image in pair.images): pair.distance for pair in found.near_leaks_first}
    assert pairs == {("b", "g"): 0, ("b", "i"): 0, ("a", "f"): 3}
    assert find_duplicates(source({"train": {"a": ("A", 1), "b": ("B", 1)}}), near=False).near is None


def test_pairs_are_those_of_every_pair_compared() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**63, 300, dtype=np.uint64)
    flips = [np.uint64(sum(1 << int(bit) for bit in rng.choice(64, count, replace=False))) for count in range(1, 8)]
    values = np.unique(np.concatenate([values, *(values[:40] ^ flip for flip in flips)]))
    wanted = {
        (i, j, distance)
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (distance := (int(values[i]) ^ int(values[j])).bit_count()) <= NEAR
    }
    found = [tuple(pair) for pairs in near_pairs(values) for pair in pairs.tolist()]
    assert len(wanted) >= 160
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_a_hundred_thousand_images_take_seconds() -> None:
    """Compared pair by pair these would be five thousand million; all that are near are found."""
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2**63, 100_000, dtype=np.uint64)
    near = np.unique(np.concatenate([values, values[:50] ^ np.uint64(0b1010001)]))
    assert sum(map(len, near_pairs(near))) == 50


def test_a_camera_that_stands_still_costs_no_more() -> None:
    """Two thousand hashes that are all near each other: two million pairs."""
    images = {f"{a} {b}": (f"{a} {b}", 1 << a | 1 << b) for a, b in combinations(range(64), 2)}
    half = len(images) // 2
    train, val = dict(list(images.items())[:half]), dict(list(images.items())[half:])
    found = find_duplicates(source({"train": train, "val": val}), near=True)
    assert (found.near, found.near_leaks) == (len(images), len(val))
    assert len(found.near_first) == len(found.near_leaks_first) == 100
    for pair in found.near_leaks_first:
        assert [image.split for image in pair.images] == ["train", "val"]


def saved_anew(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=50)
    return Image.open(content)


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2))


def brighter(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.1)


@pytest.mark.parametrize("change", [saved_anew, smaller, brighter])
def test_a_changed_picture_is_near_and_another_picture_is_not(change: Callable[[Image.Image], Image.Image]) -> None:
    """Of real pictures that look much alike, blood cells: those of one differ in 2 bits at most, of two in 14."""
    hashes = []
    for path in PICTURES:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        hashes.append((perceptual_hash(rgb), perceptual_hash(change(rgb))))
    assert max((one ^ other).bit_count() for one, other in hashes) <= NEAR
    assert min((a ^ b).bit_count() for at, (a, _) in enumerate(hashes) for b, _ in hashes[:at]) > 2 * NEAR


def test_an_import_tells_them(tmp_path: Path) -> None:
    copy = shutil.copytree(BCCD, tmp_path / "copy")
    names = [path.name for path in sorted((copy / "images").iterdir())]
    shutil.copyfile(copy / "images" / names[0], copy / "images" / names[1])
    with Image.open(copy / "images" / names[2]) as image:
        image.resize((240, 180)).save(copy / "images" / names[3], quality=60)
    found = imported(copy, tmp_path / "to").report.duplicates
    assert (found.exact, found.near) == (1, 2)
    assert {image.file_name for image in found.near_first[0].images} == {names[2], names[3]}
