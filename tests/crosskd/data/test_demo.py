from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from crosskd.data.coco import CocoDataset
from crosskd.data.demo import (
    GLYPHS,
    LARGEST,
    SMALLEST,
    VISIBLE,
    Glyph,
    _annotated,
    _placed,
    _visible,
    draw,
    write_demo,
)
from crosskd.errors import ConfigError


def test_both_splits_are_valid_coco_and_differ(tmp_path):
    data = write_demo(tmp_path, train=12, val=5, classes=7)
    train, val = (CocoDataset(split.annotations, split.images, data.classes) for split in (data.train, data.val))
    assert (len(train), len(val)) == (12, 5)
    assert train.classes == val.classes == list(GLYPHS[:7])
    assert train.annotations.remarks == []
    assert train[0].image.size == (128, 128)
    assert not np.array_equal(np.asarray(train[0].image), np.asarray(val[0].image))


def test_the_same_seed_gives_the_same_bytes_and_a_larger_set_begins_with_the_smaller(tmp_path):
    for name, count, seed in (("a", 6, 1), ("b", 6, 1), ("c", 9, 1), ("d", 6, 2)):
        write_demo(tmp_path / name, train=count, val=1, seed=seed)

    def files(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*")}

    assert files("a") == files("b")
    assert files("a")["train.json"] != files("d")["train.json"]
    pictures = {name: data for name, data in files("a").items() if name.endswith(".jpg")}
    assert pictures.items() <= files("c").items()


def test_glyphs_have_many_sizes_and_every_class_appears(tmp_path):
    write_demo(tmp_path, train=150, val=1)
    annotations = json.loads((tmp_path / "train.json").read_text())["annotations"]
    longest = np.array([max(entry["bbox"][2:]) for entry in annotations])
    assert longest.max() <= LARGEST
    assert (longest < 16).mean() > 0.1
    assert (longest > 40).mean() > 0.1
    assert np.median(longest) >= SMALLEST
    assert {entry["category_id"] for entry in annotations} == set(range(1, 11))


def test_boxes_are_tight_around_what_is_visible(monkeypatch):
    """Without texture, noise and blur, a glyph is exactly the pixels that differ from the background."""
    monkeypatch.setattr("crosskd.data.demo._background", lambda rng, size: np.zeros((size, size, 3)))
    monkeypatch.setattr("crosskd.data.demo.FEWEST", 1)
    monkeypatch.setattr("crosskd.data.demo.MOST", 1)
    for seed in range(20):
        image, boxes = draw(np.random.default_rng(seed), size=128, classes=10)
        grey = np.asarray(image.convert("L")).astype(float)
        assert len(boxes) == 1
        x, y, width, height = boxes[0]["bbox"]
        inside = grey[y : y + height, x : x + width]
        outside = grey.copy()
        outside[max(0, y - 3) : y + height + 3, max(0, x - 3) : x + width + 3] = np.nan
        assert inside.mean() > np.nanmean(outside) + 5
        edges = [inside[0], inside[-1], inside[:, 0], inside[:, -1]]
        assert all(edge.max() > np.nanmean(outside) + 15 for edge in edges)


def test_a_covered_glyph_is_framed_by_its_visible_part():
    whole, part = np.full((8, 8), 255, np.uint8), np.full((8, 5), 255, np.uint8)
    glyphs = [Glyph(0, whole, 10, 20), Glyph(1, part, 13, 20)]  # columns 13..17 of 10..17 are covered
    boxes = list(_annotated(glyphs, 64))
    assert [box["bbox"] for box in boxes] == [[10, 20, 3, 8], [13, 20, 5, 8]]
    assert [box["area"] for box in boxes] == [24, 40]


def test_no_glyph_hides_most_of_another():
    overlaps = 0
    for seed in range(60):
        glyphs = _placed(np.random.default_rng(seed), 128, 10)
        shares = [share for _, share in _visible(glyphs, 128)]
        assert all(share >= VISIBLE for share in shares)
        overlaps += sum(share < 1 for share in shares)
    assert overlaps > 5


@pytest.mark.parametrize("wrong", [{"classes": 0}, {"classes": 11}, {"train": 0}, {"val": 0}, {"size": 55}])
def test_impossible_wishes_are_clear_errors(tmp_path, wrong):
    with pytest.raises(ConfigError, match="cannot draw"):
        write_demo(tmp_path, **{"train": 1, "val": 1, **wrong})


def test_an_image_is_drawn_quickly_and_without_torch(tmp_path):
    code = (
        "import sys, time; from crosskd.data.demo import write_demo; start = time.process_time();"
        f"write_demo({str(tmp_path)!r}, train=100, val=1);"
        "assert 'torch' not in sys.modules; assert time.process_time() - start < 3"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with Image.open(tmp_path / "images" / "train_000100.jpg") as image:
        assert image.size == (128, 128)
