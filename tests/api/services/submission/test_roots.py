from __future__ import annotations

import os
from pathlib import Path

import pytest

from api.services.submission.roots import PathRefused, locate_folder, open_file


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "first", tmp_path / "second"]
    for root in found:
        (root / "images").mkdir(parents=True)
    (roots_file := found[1] / "a.json").write_text("{}")
    assert roots_file.exists()
    (tmp_path / "secret.json").write_text("{}")
    return found


def locate_file(text: str, roots: list[Path]) -> Path:
    with open_file(text, roots) as file:
        return file.path


def test_relative_and_absolute_paths_inside(roots: list[Path]) -> None:
    assert locate_file("a.json", roots) == roots[1] / "a.json"
    assert locate_file(str(roots[1] / "a.json"), roots) == roots[1] / "a.json"
    assert locate_folder("images", roots) == roots[0] / "images"  # the first root that has it
    assert locate_file("images/../a.json", roots) == roots[1] / "a.json"
    assert locate_file("../second/a.json", roots) == roots[1] / "a.json"  # out of one root, into another


@pytest.mark.parametrize("text", ["../secret.json", "/etc/passwd", "images/../../secret.json", "/", "..", "../secret"])
def test_paths_out_are_refused_whether_or_not_they_exist(roots: list[Path], text: str) -> None:
    with pytest.raises(PathRefused, match="outside the data roots") as refused:
        locate_file(text, roots)
    assert str(roots[0]) in refused.value.remedy


def test_links_are_judged_by_where_they_end(roots: list[Path], tmp_path: Path) -> None:
    (roots[0] / "out.json").symlink_to(tmp_path / "secret.json")
    (roots[0] / "out").symlink_to(tmp_path, target_is_directory=True)
    (roots[0] / "in.json").symlink_to(roots[1] / "a.json")
    (roots[0] / "loop").symlink_to(roots[0] / "loop")
    for text in ("out.json", "out/secret.json", "out/second/../secret.json"):
        with pytest.raises(PathRefused, match="outside"):
            locate_file(text, roots)
    assert locate_file("in.json", roots) == roots[1] / "a.json"
    with pytest.raises(PathRefused, match="does not exist"):
        locate_file("loop", roots)


def test_a_root_may_be_a_link(roots: list[Path], tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(roots[1], target_is_directory=True)
    assert locate_file("a.json", [tmp_path / "alias"]) == roots[1] / "a.json"


@pytest.mark.parametrize(
    ("text", "message"), [("b.json", "does not exist"), ("x" * 5000, "does not exist"), ("a\x00b", "NUL")]
)
def test_paths_to_nothing(roots: list[Path], text: str, message: str) -> None:
    with pytest.raises(PathRefused, match=message):
        locate_file(text, roots)


def test_the_kind_must_fit(roots: list[Path]) -> None:
    with pytest.raises(PathRefused, match="is not a file"):
        locate_file("images", roots)
    with pytest.raises(PathRefused, match="is not a folder"):
        locate_folder("a.json", roots)
    os.mkfifo(roots[0] / "pipe")  # opening it would wait for ever
    with pytest.raises(PathRefused, match="is not a file"):
        locate_file("pipe", roots)


def test_a_link_to_a_name_that_is_no_text(roots: list[Path]) -> None:
    target = roots[0] / os.fsdecode(b"\xff.json")
    target.write_text("{}")
    (roots[0] / "link.json").symlink_to(target)
    with pytest.raises(PathRefused, match="not UTF-8"):
        locate_file("link.json", roots)
