from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosskd.data.folder import read_samples
from crosskd.errors import DataError
from crosskd.spec.config import AugmentConfig

AUGMENT = AugmentConfig(short_edges=[32], long_edge=64)


def draw(path: Path, size: tuple[int, int] = (40, 80), grey: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), grey, np.uint8)).save(path)


def test_the_first_images_by_name_at_the_scale_of_the_evaluation(tmp_path: Path) -> None:
    for name, grey in (("b.png", 2), ("a.JPG", 1), ("deeper/a.png", 4), ("c.png", 3)):
        draw(tmp_path / name, grey=grey)
    (tmp_path / "notes.txt").write_text("no image")
    samples = read_samples(tmp_path, 3, AUGMENT, max_pixels=10**6)
    assert [int(sample.pixels.mean()) for sample in samples] == [1, 2, 3]
    assert {sample.size for sample in samples} == {(32, 64)}
    assert len(read_samples(tmp_path, 9, AUGMENT, max_pixels=10**6)) == 4


def test_what_cannot_be_read_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    draw(tmp_path / "b.png", size=(400, 400))
    draw(tmp_path / "c.png", grey=9)
    (sample,) = read_samples(tmp_path, 2, AUGMENT, max_pixels=100_000)
    assert int(sample.pixels.mean()) == 9
    assert "a.png" in caplog.text
    assert "b.png" in caplog.text


def test_links_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    draw(tmp_path / "outside.png")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(DataError, match="no image that can be read"):
        read_samples(folder, 1, AUGMENT, max_pixels=10**6)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_samples(tmp_path / "nowhere", 1, AUGMENT, max_pixels=10**6)
