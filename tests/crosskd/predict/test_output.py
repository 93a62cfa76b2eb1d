"""Names of pictures in a folder: none twice, none elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosskd.errors import ConfigError
from crosskd.predict.output import OutputFolder, read_image


def test_no_name_is_used_twice_and_no_image_is_replaced(tmp_path: Path) -> None:
    images = [tmp_path / "in/a.jpg", tmp_path / "other/a.png", tmp_path / "in/A.gif", tmp_path / "out/b-boxes.png"]
    folder = OutputFolder(tmp_path / "out", images)
    names = [folder.picture(path).name for path in [*images[:3], Path("b.jpg"), Path("..")]]
    assert names == ["a-boxes.png", "a-boxes-2.png", "A-boxes-3.png", "b-boxes-2.png", "..-boxes.png"]
    assert {folder.picture(path).parent for path in images} == {tmp_path / "out"}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    folder, outside = OutputFolder(tmp_path / "out", []), tmp_path / "precious"
    outside.write_bytes(b"kept")
    picture = folder.picture(Path("a.png"))
    picture.symlink_to(outside)
    folder.write(picture, b"new")
    assert (outside.read_bytes(), picture.read_bytes(), picture.is_symlink()) == (b"kept", b"new", False)
    assert sorted(path.name for path in folder.folder.iterdir()) == ["a-boxes.png"]


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        OutputFolder(tmp_path / "file" / "out", [])
    with pytest.raises(ConfigError, match="this is a folder"):
        read_image(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_image(tmp_path / "none.jpg")
