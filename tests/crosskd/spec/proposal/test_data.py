"""What both splits of a data set hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crosskd.spec.proposal.compose import Wish, propose
from crosskd.spec.proposal.data import read
from crosskd.spec.proposal.folder import Place, Places


def lay(folder: Path, split: str, width: int, height: int) -> Place:
    """A split of one image with a box."""
    name = f"{split}.png"
    (folder / name).touch()
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 50, 50]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    annotations = folder / f"{split}.json"
    annotations.write_text(json.dumps(content))
    return Place(annotations, folder)


def test_the_largest_image_may_be_one_of_validation(tmp_path: Path) -> None:
    data = read(tmp_path, Places(lay(tmp_path, "train", 640, 480), lay(tmp_path, "val", 9000, 8000)))
    assert data.statistics.most_pixels == 72_000_000
    assert propose("two", data, Wish(alone=True)).values["data"]["max_image_pixels"] == 72_000_000
