"""Where images are looked for, and what is said of those that are missing."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from crosskd.spec.coco import image_files
from crosskd.spec.coco.image_files import SAMPLE, look, sample
from crosskd.spec.coco.near_names import explain


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


NFD = unicodedata.normalize("NFD", "é.jpg")
NEAR = [  # what is there, what is named, and what is said to tell them apart
    ("a.jpg", "a.JPG", "(case)"),
    ("A.JPG", "a.jpg", "(case)"),
    ("dir/a.jpg", "dir\\a.jpg", "(backslashes)"),
    ("dir/a.jpg", "Dir\\A.JPG", "(backslashes and case)"),
    ("a.jpg", "images/a.jpg", "(a folder too much)"),
    ("a.jpg", "C:\\data\\a.jpg", "(backslashes and a folder too much)"),
    ("train/a.jpg", "a.jpg", "(a folder further down)"),
    ("train/a.jpg", "val/a.jpg", "(a folder further down)"),
    ("é.jpg", NFD, "(Unicode form)"),
    (NFD, "é.jpg", "(Unicode form)"),
    ("a b.jpg", "a%20b.jpg", "(percent signs)"),
    ("a%20b.jpg", "a b.jpg", "(percent signs)"),
    ("d/a.jpg", "d%2Fa.jpg", "(percent signs)"),
    ("a.jpg", " a.jpg", "(white space)"),
    ("a.png", "a.jpg", "(ending)"),
    ("a.jpeg", "a.JPG", "(ending)"),
]


@pytest.mark.parametrize(("there", "named", "difference"), NEAR)
def test_names_that_nearly_match_are_told_with_a_remedy(root: Path, there: str, named: str, difference: str) -> None:
    write(root, there)
    found = look(root, [named])
    assert found.missing == [named]
    said = explain(root, found.missing, found.looked)
    assert said.detail.startswith("1 of 1 images are missing: ")
    assert difference in said.detail
    assert said.remedy
    assert said.remedy != explain(root, ["nothing.like.it"], 1).remedy


def test_the_remedy_names_the_folder_to_give(root: Path) -> None:
    write(root, "a.jpg", "train/b.jpg")
    assert explain(root, ["images/a.jpg"], 1).remedy == f"Name {root.parent} as `images`."
    assert explain(root, ["other/a.jpg"], 1).remedy.startswith("Leave 'other/' out of `file_name`")
    assert explain(root, ["other/a.jpg"], 1, listed=True).remedy.startswith("Leave 'other/' out of the list,")
    assert explain(root, ["b.jpg"], 1).remedy.startswith(f"Name {root / 'train'} as `images`")


def test_each_kind_of_difference_is_told_once_with_its_number(root: Path) -> None:
    write(root, *(f"{i}.jpg" for i in range(6)))
    said = explain(root, ["0.JPG", "1.JPG", "2.JPG", "3.JPG", "images/4.jpg", "none.jpg"], 9)
    assert said.detail.startswith(
        "6 of 9 images are missing: '0.JPG', '1.JPG', '2.JPG', '3.JPG', 'images/4.jpg' and 1 "
    )
    assert "'0.JPG' is there as '0.jpg' (case; 4 of 6 looked into differ so)" in said.detail
    assert "'images/4.jpg' is there as '4.jpg' (a folder too much; 1 of 6 looked into differ so)" in said.detail


@pytest.mark.parametrize("names", [["x" * 300], ["x/" * 2000 + "a"], ["a.jpg/b.jpg"], ["."], ["%2e%2e/a"], ["\\"]])
def test_names_that_no_file_can_have_are_missing(root: Path, names: list[str]) -> None:
    write(root, "a.jpg")
    assert explain(root, look(root, names).missing, 1).detail.startswith("1 of 1 images are missing")


def test_a_folder_that_cannot_be_read_is_said_to_be(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, whom no permission stops."""
    real = os.open

    def open_it(path: Any, *flags: Any) -> int:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path, *flags)

    (root / "closed").mkdir()
    monkeypatch.setattr(os, "open", open_it)
    said = explain(root, ["closed/a.jpg"], 1)
    assert f"The folder {root / 'closed'} cannot be read: Permission denied" in said.detail
    assert "the right to list and to enter" in said.remedy


@pytest.mark.parametrize("listing", [1, 1000])
def test_links_may_lead_into_the_folder_and_the_roots_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, listing: int
) -> None:
    """However a folder with many names is looked through."""
    monkeypatch.setattr(image_files, "LISTING", listing)
    pool, secret = root.parent / "pool", root.parent / "secret"
    write(root, "a.jpg", "dir/b.jpg")
    write(pool, "c.jpg")
    write(secret, "d.jpg")
    for name, target in {
        "in.jpg": "dir/b.jpg", "pool.jpg": "../pool/c.jpg", "secret.jpg": "../secret/d.jpg", "pools": "../pool",
        "secrets": "../secret", "gone.jpg": "nothing", "round.jpg": "round.jpg",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    names = ["a.jpg", "dir/b.jpg", "in.jpg", "pool.jpg", "secret.jpg", "pools/c.jpg", "secrets/d.jpg", "gone.jpg"]
    found = look(root, [*names, "round.jpg", "dir"], [pool])
    assert (found.looked, found.missing) == (10, ["gone.jpg", "round.jpg", "dir"])
    assert sorted(found.outside) == ["secret.jpg", "secrets/d.jpg"]
    assert len(look(root, names).outside) == 4


def test_what_lies_outside_is_not_told(root: Path) -> None:
    """A name that is missing here, and nearly there behind a link that leads out."""
    pool, secret = root.parent / "pool", root.parent / "secret"
    for folder in (pool, secret):
        write(folder, "a.jpg")
    (root / "pools").symlink_to(pool)
    (root / "secrets").symlink_to(secret)
    for name, near in (("x/pools/A.jpg", "pools/a.jpg"), ("x/secrets/A.jpg", "")):
        said = explain(root, [name], 1, [pool])
        assert ("is there as" in said.detail) == bool(near)
        assert near in said.detail
        assert "cannot be read" not in said.detail


def test_a_folder_that_becomes_a_link_out_while_it_is_looked_through_is_not_listed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "LISTING", 1)
    write(root, "dir/a.jpg")
    write(root.parent / "secret", "b.jpg")
    real = os.open

    def swap_first(path: Any, *flags: Any) -> int:
        if Path(path).name == "dir" and not Path(path).is_symlink():
            (root / "dir").rename(root / "before")
            (root / "dir").symlink_to("../secret")
        return real(path, *flags)

    monkeypatch.setattr(os, "open", swap_first)
    found = look(root, ["dir/b.jpg"])
    assert (found.outside, found.missing) == (["dir/b.jpg"], [])


def test_a_file_that_cannot_be_read_is_not_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user may read it; who cannot says why when it is read."""
    write(root, "a.jpg")

    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert look(root, ["a.jpg", "b.jpg"]).missing == ["b.jpg"]


def test_a_look_ends_in_time(root: Path) -> None:
    assert look(root, ["a.jpg", "b.jpg"], seconds=-1).looked == 0
    write(root, "a.jpg")
    assert "is there as" not in explain(root, ["a.JPG"], 1, seconds=-1).detail


def test_a_sample_is_spread_over_the_names() -> None:
    names = [str(i) for i in range(1000)]
    found = sample(names)
    assert len(set(found)) == SAMPLE
    assert (found[0], found[-1]) == ("0", "999")
    assert sample(names[:7]) == names[:7]
    assert sample(["x" * 100_000, "a"]) == ["a"]
