"""What a training image costs with mosaic and MixUp and without, in time of one core.

    python -m benchmarks.mixing --data PATH [--images 128] [--rounds 3]

PATH holds train.json and images/. The rows are the `augment` of the packaged recipes of RTMDet and YOLOX, in an epoch
with mixing and in one of the last ones, and a plain letterbox with the mirror alone; batches of 16, letterboxes of 640
pixels for all. Everything is timed from the files to the batch, with no cache of images; the rows in turn, round by
round, and the median over the rounds is shown. The time is that of the processor, which other work on the machine
changes less than the clock's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from crosskd.data.loader import Loader, build_loader
from crosskd.runs.loader_input import of_training
from crosskd.spec.config import TrainConfig
from crosskd.spec.presets import load_recipe

BATCH = 16
LETTERBOX = {"letterbox": [640]}


def loader(data: Path, recipe: str, augment: dict[str, Any]) -> Loader:
    split = {"annotations": str(data / "train.json"), "images": str(data / "images")}
    fixed = {"data": {"train": split, "val": split}, "augment": augment, "batch_size": BATCH, "device": "cpu"}
    config = TrainConfig.model_validate(load_recipe(recipe) | fixed | {"loader": {"workers": 0}})
    return build_loader(of_training(config, "train"))


def rows(data: Path) -> dict[str, tuple[Loader, int]]:
    """The loader of each row, and the epoch of it that is timed."""
    found: dict[str, tuple[Loader, int]] = {}
    for name, recipe in (("RTMDet tiny", "rtmdet_tiny_300e"), ("YOLOX s", "yolox_s_300e")):
        augment = load_recipe(recipe)["augment"] | LETTERBOX
        mixing = loader(data, recipe, augment)
        found |= {f"{name}: mosaic and MixUp": (mixing, 0), f"{name}: the last epochs": (mixing, 299)}
        if name == "RTMDet tiny":
            plain = {key: augment[key] for key in ("short_edges", "long_edge", "letterbox", "antialias")}
            found["letterbox and mirror"] = (loader(data, recipe, plain), 0)
    return found


def seconds_per_image(loader: Loader, epoch: int, images: int) -> float:
    seen, start = 0, time.process_time()
    while seen < images:
        for batch in islice(loader.epoch(epoch), -(-(images - seen) // BATCH)):
            seen += len(batch.image_ids)
    return (time.process_time() - start) / seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=128, help="a row and round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    timed: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for name, (each, epoch) in rows(arguments.data).items():
            timed.setdefault(name, []).append(seconds_per_image(each, epoch, arguments.images))
    print("| | ms an image | images a second and core |")
    print("|---|---|---|")
    for name, seconds in timed.items():
        middle = statistics.median(seconds)
        print(f"| {name} | {1000 * middle:.0f} | {1 / middle:.0f} |")


if __name__ == "__main__":
    main()
