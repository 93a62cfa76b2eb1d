"""One table of layouts, for `crosskd train --data` and for `crosskd submit --data`."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosskd.errors import ConfigError
from crosskd.spec.data.layouts import LAYOUTS, Layout, data_section


def lay_out(folder: Path, layout: Layout, *splits: str) -> None:
    for split in splits:
        annotations, images = getattr(layout, split)
        (folder / images).mkdir(parents=True, exist_ok=True)
        (folder / annotations).parent.mkdir(parents=True, exist_ok=True)
        (folder / annotations).write_text("{}")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_is_found_by_its_files(tmp_path: Path, layout: Layout) -> None:
    lay_out(tmp_path, layout, "train", "val")
    assert data_section(tmp_path) == {
        split: {"annotations": f"{tmp_path}/{annotations}", "images": f"{tmp_path}/{images}"}
        for split, (annotations, images) in (("train", layout.train), ("val", layout.val))
    }


def test_those_of_coco_and_roboflow_are_among_them() -> None:
    assert {layout.train for layout in LAYOUTS} >= {
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train2014.json", "train2014"),
        ("train/_annotations.coco.json", "train"),
    }


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=str)
def test_half_a_layout_is_told_what_it_lacks(tmp_path: Path, layout: Layout) -> None:
    lay_out(tmp_path, layout, "train")
    with pytest.raises(ConfigError, match=f"lacks {layout.val[0]} and {layout.val[1]}/: nearest is") as caught:
        data_section(tmp_path)
    assert str(LAYOUTS[-1]) in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "no data set in a known layout"),
        ("gone", "there is no data folder"),
        ("x" * 300, "cannot be looked at: File name too long"),
    ],
)
def test_a_folder_of_something_else_says_so(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        data_section(tmp_path / name)
