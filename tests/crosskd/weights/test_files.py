"""What a process that was killed while it wrote leaves behind stands in nobody's way."""

from __future__ import annotations

import os
from pathlib import Path

from crosskd.weights.files import making_folder, remove_leftovers, replacing


def test_leftovers_of_a_killed_process_are_written_over_and_removed(tmp_path: Path) -> None:
    """Of one with the same id, too: in a container each start may have it."""
    for name in ("file", "folder"):
        left = tmp_path / f".{name}.{os.getpid()}.tmp"
        if name == "file":
            left.write_text("half")
        else:
            left.mkdir()
            (left / "old.json").write_text("half")
    with replacing(tmp_path / "file") as file:
        file.write_text("whole")
    with making_folder(tmp_path / "folder") as folder:
        (folder / "new.json").write_text("whole")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "file",
        "folder",
        "folder/new.json",
    ]

    (tmp_path / ".file.1.tmp").write_text("half")
    (tmp_path / ".link.1.tmp").symlink_to(tmp_path / "folder")
    (tmp_path / ".folder.1.tmp").mkdir()
    (tmp_path / ".folder.1.tmp" / "old.json").write_text("half")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "new.json"]
