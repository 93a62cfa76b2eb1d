"""How cost grows: a CrossKD step against area, batch, classes and objects, and the reader of COCO files against images.

    python -m benchmarks.growth [--detectors gfl retinanet] [--rounds 3] [--threads 2]

One quantity grows at a time; the others stay at 320², batch 2, 80 classes, 8 objects in an image (ResNet-18 <-
ResNet-50, SGD left out). The settings of a row are timed in turn, round by round; the median counts. The last column is
the growth of the cost over that of the quantity, the largest between neighbours: 1 is linear, less is better. What a
step costs in any case (weights, norms, calls) makes it less than 1.

The reader's files are made here: 7 objects in an image. Each is read in a process of its own, whose peak memory counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.step import Bench
from benchmarks.timing import in_turn
from crosskd.data.annotations import read_annotations
from crosskd.spec.names import DetectorName

DENSE = ("gfl", "retinanet", "atss", "fcos")  # of one head with towers, which can be cut alike
SIDE = 320
LINEAR = 1.1  # growth of the cost over growth of the quantity; the rest is the clock's
IMAGES = (100, 1_000, 10_000, 100_000)
OBJECTS_READ = 7  # in an image
KIBIBYTE = 1024


class Row(NamedTuple):
    """One quantity that grows."""

    name: str
    values: Sequence[int]
    knob: str  # of `Bench.build`


ROWS = (
    Row("side (area)", (160, 320, 480, 640), "size"),
    Row("batch", (1, 2, 4, 8), "batch"),
    Row("classes", (1, 80, 365, 1203), "classes"),
    Row("objects in an image", (1, 8, 100, 500), "objects"),
)


def measured(row: Row, detector: DetectorName, rounds: int) -> list[float]:
    """Seconds of a step at each value, the median over the rounds."""
    work = []
    for value in row.values:
        knobs: dict[str, Any] = {"size": SIDE, row.knob: value}
        work.append(Bench.build(knobs.pop("size"), detector=detector, **knobs).distil)
    return [statistics.median(times) for times in in_turn(work, rounds)]


def steepest(quantities: Sequence[float], costs: Sequence[float]) -> float:
    """The largest growth of the cost over that of the quantity, between neighbours."""
    pairs = zip(pairwise(costs), pairwise(quantities), strict=True)
    return max((later / earlier) / (more / less) for (earlier, later), (less, more) in pairs)


def print_steps(detector: DetectorName, rounds: int) -> bool:
    """The table of a detector; whether nothing grows faster than linearly."""
    print(f"\n{detector}, milliseconds a step\n\n| | | | | | growth |\n|---|---|---|---|---|---|")
    within = True
    for row in ROWS:
        seconds = measured(row, detector, rounds)
        quantities = [float(value**2 if row.knob == "size" else value) for value in row.values]
        growth = steepest(quantities, seconds)
        within &= growth <= LINEAR
        cells = [f"{value}: {1000 * one:.0f}" for value, one in zip(row.values, seconds, strict=True)]
        print(f"| {row.name} | {' | '.join(cells)} | {growth:.2f} |", flush=True)
    return within


def write_annotations(path: Path, images: int) -> None:
    """A COCO file of `images` images of 640 x 480 pixels, 80 classes."""
    entries = [{"id": i, "file_name": f"{i:012}.jpg", "width": 640, "height": 480} for i in range(1, images + 1)]
    boxes = [
        {
            "id": i * OBJECTS_READ + n + 1,
            "image_id": i,
            "category_id": (i + n) % 80 + 1,
            "bbox": [10.5 * n, 20.25, 100.75, 80.5],
            "area": 100.75 * 80.5,
            "iscrowd": 0,
        }
        for i in range(1, images + 1)
        for n in range(OBJECTS_READ)
    ]
    categories = [{"id": n, "name": f"class {n}"} for n in range(1, 81)]
    path.write_text(json.dumps({"images": entries, "annotations": boxes, "categories": categories}))


def read(path: Path) -> tuple[float, float]:
    """Seconds that reading takes, and MiB that this process's peak grew by."""
    before, began = _peak(), time.perf_counter()
    read_annotations(path)
    return time.perf_counter() - began, _peak() - before


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIBIBYTE


def print_reader() -> bool:
    """The reader's table; whether time and memory do not grow faster than linearly."""
    print("\n| images | seconds | microseconds an image | MiB |\n|---|---|---|---|")
    seconds, context = [], multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for images in IMAGES:
            path = Path(folder, f"{images}.json")
            write_annotations(path, images)
            with context.Pool(1) as pool:
                pool.apply(read, (path,))  # the first one pays for what is loaded once
                took, mib = pool.apply(read, (path,))
            seconds.append(took)
            print(f"| {images:,} | {took:.3f} | {1e6 * took / images:.0f} | {mib:.0f} |", flush=True)
    growth = steepest([float(images) for images in IMAGES], seconds)
    print(f"\ngrowth of the reader's time: {growth:.2f}")
    return growth <= LINEAR


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="*", choices=sorted(DENSE), default=["gfl", "retinanet"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    within = [print_steps(detector, arguments.rounds) for detector in arguments.detectors]
    within.append(print_reader())
    print(f"nothing grows faster than linearly: {'yes' if all(within) else 'NO'}")
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
