"""Square tiles of a COCO-format data set, in a folder of the same form: small images to measure much on, soon.

    python -m benchmarks.tiles DATA OUT [--side 160] [--train 800] [--val 300] [--seed 0]

DATA holds train.json, val.json and images/. Images are cut without overlap from the upper left corner; what is left at
the right and the lower edge is not used. Of all tiles so many are taken at random, training and validation each from
their own images. A box is cut at the tile's edge; where less than half of its area lies in the tile it is left out, and
counted. Tiles are PNG: nothing is lost but what the images had lost before.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

LEAST_SHARE = 0.5  # of a box's area, in the tile
SPLITS = ("train", "val")


class Tile(NamedTuple):
    image: dict[str, Any]  # entry of the annotations
    x: int
    y: int


def tiles_of(images: list[dict[str, Any]], side: int) -> list[Tile]:
    return [
        Tile(image, x, y)
        for image in images
        for y in range(0, image["height"] - side + 1, side)
        for x in range(0, image["width"] - side + 1, side)
    ]


def inside(box: list[float], tile: Tile, side: int) -> list[float] | None:
    """The box (x, y, width, height) in the tile's pixels; None where too little of it is there."""
    x, y, width, height = box
    left, top = max(x - tile.x, 0.0), max(y - tile.y, 0.0)
    right, bottom = min(x - tile.x + width, side), min(y - tile.y + height, side)
    if right <= left or bottom <= top or (right - left) * (bottom - top) < LEAST_SHARE * width * height:
        return None
    return [left, top, right - left, bottom - top]


def cut(data: Path, out: Path, split: str, side: int, count: int, seed: int) -> str:
    """Write `count` tiles of a split, and `<split>.json`; what was done, in words."""
    source = json.loads((data / f"{split}.json").read_text())
    every = tiles_of(source["images"], side)
    chosen = random.Random(f"{split} {seed}").sample(every, min(count, len(every)))
    boxes: dict[int, list[dict[str, Any]]] = {}
    for annotation in source["annotations"]:
        boxes.setdefault(annotation["image_id"], []).append(annotation)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    left_out = 0
    for number, tile in enumerate(sorted(chosen, key=lambda one: (one.image["id"], one.y, one.x)), start=1):
        name = f"{Path(tile.image['file_name']).stem}_{tile.y}_{tile.x}.png"
        with Image.open(data / "images" / tile.image["file_name"]) as photo:
            photo.crop((tile.x, tile.y, tile.x + side, tile.y + side)).save(out / "images" / name)
        images.append({"id": number, "file_name": name, "width": side, "height": side})
        for annotation in boxes.get(tile.image["id"], []):
            box = inside(annotation["bbox"], tile, side)
            if box is not None:
                same = {"id": len(annotations) + 1, "image_id": number, "bbox": box, "area": box[2] * box[3]}
                annotations.append(annotation | same)
            elif touches(annotation["bbox"], tile, side):
                left_out += 1
    told = {"images": images, "annotations": annotations, "categories": source["categories"]}
    (out / f"{split}.json").write_text(json.dumps(told))
    return f"{split}: {len(images)} of {len(every)} tiles, {len(annotations)} boxes, {left_out} cut remains left out"


def touches(box: list[float], tile: Tile, side: int) -> bool:
    x, y, width, height = box
    return x < tile.x + side and y < tile.y + side and x + width > tile.x and y + height > tile.y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=160, help="pixels")
    parser.add_argument("--train", type=int, default=800, help="tiles")
    parser.add_argument("--val", type=int, default=300, help="tiles")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        count = getattr(arguments, split)
        print(cut(arguments.data, arguments.out, split, arguments.side, count, arguments.seed))


if __name__ == "__main__":
    main()
