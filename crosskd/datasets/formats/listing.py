"""The images that lie in folders, whether anything names them or not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from crosskd.datasets.faults import DatasetFaults
from crosskd.spec.data.image_list import image_names
from crosskd.spec.inputs import LeadsOutside, WrongKind, open_within


def images_below(folder: Path, root: Path) -> list[str]:
    """Images in a folder and below it, by name, relative to `root`; none where it cannot be listed."""
    try:
        with open_within(folder, [root], folder=True) as opened:
            return [(folder.relative_to(root) / name).as_posix() for name in image_names(opened.descriptor)]
    except (OSError, WrongKind, LeadsOutside):
        return []


def unlisted_images(root: Path, folders: Iterable[Path], listed: Iterable[str], faults: DatasetFaults) -> None:
    """Count the images of those folders that hold a listed one, and are listed nowhere."""
    known = set(listed)
    used = {Path(name).parent for name in known}
    for folder in dict.fromkeys(folders):
        for name in images_below(folder, root):
            if name not in known and Path(name).parent in used:
                known.add(name)
                faults.add("unlisted_image", name, "", "no annotation names it")
