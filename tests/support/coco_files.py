"""Small COCO data sets on disk for the tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crosskd.data.loader import Loader, build_loader
from crosskd.data.source import Split
from crosskd.runs import loader_input
from crosskd.spec.config import TrainConfig


def content(**changes: Any) -> dict[str, Any]:
    """Two images of 64 x 48, ids that are not 1..n, three boxes of two categories; sections by name to replace."""
    return {
        "images": [
            {"id": 70, "file_name": "a.png", "width": 64, "height": 48},
            {"id": 20, "file_name": "b.png", "width": 64, "height": 48},
        ],
        "annotations": [
            {"id": 5, "image_id": 20, "category_id": 9, "bbox": [4, 6, 20, 10], "area": 150.0, "iscrowd": 0},
            {"id": 3, "image_id": 70, "category_id": 2, "bbox": [10, 10, 30, 20], "area": 600.0, "iscrowd": 0},
            {"id": 8, "image_id": 20, "category_id": 2, "bbox": [30.5, 8, 8, 8], "area": 64.0, "iscrowd": 0},
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog"}],
        **changes,
    }


def write(folder: Path, data: Any, *, images: bool = True, name: str = "train.json") -> Path:
    """Write the annotation file and, in `images/`, an image of noise for each entry that can have one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    (folder / "images").mkdir(exist_ok=True)
    if images and isinstance(data, dict):
        for number, entry in enumerate(data["images"]):
            noise(entry["width"], entry["height"], seed=number).save(folder / "images" / entry["file_name"])
    return path


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def many(sizes: list[tuple[int, int]], *, boxes: int = 2, seed: int = 0) -> dict[str, Any]:
    """An image per (width, height), each with `boxes` boxes of two categories."""
    rng = np.random.default_rng(seed)
    images = [{"id": 100 + 3 * i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(sizes)]
    annotations = [
        {
            "id": 1000 + i * boxes + j,
            "image_id": image["id"],
            "category_id": int(rng.integers(1, 3)),
            "bbox": [float(rng.uniform(0, image["width"] / 2)), float(rng.uniform(0, image["height"] / 2)), 12.0, 9.0],
            "area": 108.0,
            "iscrowd": 0,
        }
        for i, image in enumerate(images)
        for j in range(boxes)
    ]
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def config(folder: Path, **changes: Any) -> TrainConfig:
    """A configuration whose both splits are `folder`'s train.json."""
    split = {"annotations": str(folder / "train.json"), "images": str(folder / "images")}
    data = {"train": split, "val": split, **changes.pop("data", {})}
    return TrainConfig.model_validate(
        {
            "data": data,
            "student": {
                "backbone": {"name": "resnet_tiny", "width": 8},
                "neck": {"channels": 16},
                "head": {"channels": 16, "depth": 1, "norm_groups": 4},
            },
            "augment": {"short_edges": [64], "long_edge": 128},
            "loader": {"workers": 0},
            "batch_size": 4,
            **changes,
        }
    )


def write_spec(root: Path) -> dict[str, Any]:
    """Write a small COCO file below `root`; the spec of a job that trains on it."""
    images = root / "images"
    images.mkdir(exist_ok=True)
    noise(64, 64).save(images / "1.png")
    annotations = root / "instances.json"
    coco = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "ring"}, {"id": 2, "name": "square"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [30, 30, 20, 20], "area": 400, "iscrowd": 0},
        ],
    }
    annotations.write_text(json.dumps(coco))
    split = {"annotations": str(annotations), "images": str(images)}
    return {"data": {"train": split, "val": split}, "student": {"backbone": {"name": "resnet_tiny"}}, "device": "cpu"}


def loader_of(config: TrainConfig, split: Split, classes: Sequence[str] | None = None, **options: Any) -> Loader:
    """The batches of a split as a training has them; `options` as `build_loader` takes them."""
    return build_loader(loader_input.of_training(config, split, classes), **options)
