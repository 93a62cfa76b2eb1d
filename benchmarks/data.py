"""How many images a second the loader makes, by its number of workers, and what one image costs by its parts.

    python -m benchmarks.data [--images 256] [--rounds 3] [--workers 0 1 2]

Made-up photographs of 640 x 480 pixels, JPEG at quality 90, as COCO has them; batches of 2, resized to fit 1333 x 800
as the published recipes do, flipped with 0.5. First the parts of an image on one thread, without a loader: decoding,
resizing and copying into the batch, in time of the processor. Then whole epochs, from the first batch asked for to
the last, after one that starts the workers; the numbers of workers in turn, round by round, the median over the
rounds. Nothing trains beside them, so that the workers have the cores to themselves. How long a step waits for its
data is what `python -m benchmarks.step --sizes` measures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import in_turn
from crosskd.data.coco import Example
from crosskd.data.loader import Loader, build_loader
from crosskd.data.transforms import Sample, flipped, resized, stacked
from crosskd.runs.loader_input import of_training
from crosskd.spec.config import TrainConfig
from crosskd.spec.presets import load_recipe

RECIPE = "gfl_r18_r50"
HEIGHT, WIDTH = 480, 640
RESIZED = (800, 1067)


def write_photographs(folder: Path, count: int) -> dict[str, Any]:
    """Smooth pictures with some noise, which cost a decoder what photographs do. Returns `data` of a configuration."""
    (folder / "images").mkdir()
    draw = np.random.default_rng(0)
    images, boxes = [], []
    for number in range(1, count + 1):
        small = Image.fromarray(draw.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (smooth + draw.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "images" / f"{number}.jpg", quality=90)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT})
        box = {"image_id": number, "category_id": 1, "bbox": [100, 100, 200, 150], "area": 30000, "iscrowd": 0}
        boxes.append({"id": number, **box})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "train.json").write_text(json.dumps(content))
    split = {"annotations": str(folder / "train.json"), "images": str(folder / "images")}
    return {"train": split, "val": split}


def config(data: dict[str, Any], workers: int) -> TrainConfig:
    recipe = load_recipe(RECIPE)
    fixed = {"data": data, "loader": {"workers": workers}, "batch_size": 2, "device": "cpu"}
    return TrainConfig.model_validate({**recipe, **fixed, "distill": None, "teacher": None})


def parts(data: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Each part of what becomes of an image, on its own."""
    settings = config(data, 0)
    path = Path(data["train"]["images"]) / "1.jpg"
    image = Image.open(path).convert("RGB")
    example = Example(1, image, np.zeros((1, 4), np.float32), np.zeros(1, np.int64))
    sample = resized(example, RESIZED, settings.augment.antialias)
    mirrored: Sample = flipped(sample)
    pixels = settings.student.pixels
    return {
        "decoding": lambda: Image.open(path).convert("RGB"),
        f"resizing to {RESIZED[1]} x {RESIZED[0]}": lambda: resized(example, RESIZED, settings.augment.antialias),
        "the same without antialiasing": lambda: resized(example, RESIZED, False),
        "copying into the batch": lambda: stacked([sample], pixels, 32),
        "the same, mirrored": lambda: stacked([mirrored], pixels, 32),
    }


def processor_seconds(piece: Callable[[], Any], times: int = 20) -> float:
    """The median, in time of the processor, which other work on the machine changes less than the clock's."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        piece()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


class Epochs:
    """Whole epochs of a loader, one after the other; the first one starts its workers."""

    def __init__(self, data: dict[str, Any], workers: int) -> None:
        self.loader: Loader = build_loader(of_training(config(data, workers), "train"))
        self.next = 0

    def run(self) -> None:
        for _ in self.loader.epoch(self.next):
            pass
        self.next += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = write_photographs(Path(folder), given.images)
        pieces = parts(data)
        print("| part of an image | ms |\n|---|---|")
        for name, piece in pieces.items():
            print(f"| {name} | {1000 * processor_seconds(piece):.1f} |")
        epochs = [Epochs(data, workers) for workers in given.workers]
        print("\n| workers | images a second, median (min..max) |\n|---|---|")
        for workers, times in zip(given.workers, in_turn([each.run for each in epochs], given.rounds), strict=True):
            speeds = [given.images / seconds for seconds in times]
            print(f"| {workers} | {statistics.median(speeds):.0f} ({min(speeds):.0f}..{max(speeds):.0f}) |")


if __name__ == "__main__":
    main()
