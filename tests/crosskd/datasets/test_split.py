"""How images are divided: by share and seed, in groups, and the same whatever the order."""

from __future__ import annotations

import random
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.model import Source, SourceImage
from crosskd.datasets.split import divide
from crosskd.errors import DataError
from crosskd.spec.data.draw import drawn
from crosskd.spec.data.import_config import SplitConfig


def source(names: list[str], same: dict[str, str] | None = None) -> Source:
    """Images of these names; `same` says which have the content of another one."""
    same = same or {}
    images = [SourceImage(name, "a.json", [], sha256=same.get(name, name)) for name in names]
    return Source("coco", Path("/data"), ["cat"], {"train": images})


def divided(found: Source) -> tuple[set[str], set[str]]:
    return {image.name for image in found.splits["train"]}, {image.name for image in found.splits["val"]}


@given(
    st.dictionaries(st.integers(), st.integers(1, 9), min_size=2, max_size=40),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32 - 1),
    st.randoms(),
)
def test_a_draw_comes_near_to_its_share_in_any_order(
    groups: dict[int, int], share: float, seed: int, order: random.Random
) -> None:
    chosen = drawn(groups, share, seed)
    assert set() < chosen < set(groups)
    keys = list(groups)
    order.shuffle(keys)
    assert drawn({key: groups[key] for key in keys}, share, seed) == chosen
    total, taken = sum(groups.values()), sum(groups[key] for key in chosen)
    assert abs(taken - share * total) <= max(groups.values()) + 1


@pytest.mark.parametrize("group_by", ["folder", r"^(\w+)/", r"video\d"])
def test_images_of_a_group_stay_together(group_by: str) -> None:
    names = [f"video{video}/{frame}.png" for video in range(8) for frame in range(5)]
    found = source(names)
    divide(found, SplitConfig(validation=0.25, seed=2, group_by=group_by), DatasetFaults())
    train, val = divided(found)
    assert train | set(val) == set(names)
    assert len(val) == 10
    assert not {PurePosixPath(name).parent for name in train} & {PurePosixPath(name).parent for name in val}


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_file_stay_together_across_groups(seed: int) -> None:
    names = [f"{group}/{number}.png" for group in "abcdef" for number in range(3)]
    found = source(names, {"b/0.png": "a/0.png", "c/1.png": "b/2.png"})
    divide(found, SplitConfig(validation=0.5, seed=seed, group_by="folder"), DatasetFaults())
    train, val = divided(found)
    assert {name[0] for name in train} & {name[0] for name in val} == set()
    for part in (train, val):
        assert len({name[0] for name in part} & set("abc")) in (0, 3)


def test_names_without_a_group_are_drawn_one_by_one_and_told() -> None:
    faults = DatasetFaults()
    found = source([f"x{number}.png" for number in range(10)])
    divide(found, SplitConfig(validation=0.3, group_by="video"), faults)
    assert len(found.splits["val"]) == 3
    assert [(fault.kind, fault.count) for fault in faults.counts()] == [("no_group", 10)]


def test_one_group_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="10 images in 1 group"):
        divide(source([f"a/{n}.png" for n in range(10)]), SplitConfig(group_by="folder"), DatasetFaults())
