"""A small training that is always the same: a teacher, then a student that it teaches, and what both come to.

    python -m tests.support.regression [--seeds 0] [--threads 1 2] [--nudges 0]

prints a line for each run: how far its numbers move with the seed, the number of threads, and a relative change of the
learning rate by so many millionths, which stands for another machine. `tests/crosskd/test_regression.py` holds a run
against recorded numbers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from crosskd.data.demo import write_demo
from crosskd.runs.train import train
from tests.support.trainings import Story, config, distilled

SIZE, CLASSES, IMAGES = 96, 3, 32
EPOCHS = 60
LAST = 20  # steps whose losses are averaged: those of five epochs


def write_data(folder: Path) -> dict[str, Any]:
    """The images that are learnt are those that are evaluated: AP is high after a minute, and moves little."""
    data = write_demo(folder, train=IMAGES, val=1, size=SIZE, classes=CLASSES, seed=4).model_dump()
    return {**data, "val": data["train"]}


def settings(seed: int, threads: int, nudge: int) -> dict[str, Any]:
    return {
        "augment": {"short_edges": [SIZE], "long_edge": SIZE, "val_short_edge": SIZE, "flip": 0.0},
        "batch_size": 8,
        "schedule": {"epochs": EPOCHS, "warmup_steps": 20, "decay": "cosine"},
        "optimizer": {"name": "adamw", "lr": 0.004 * (1 + nudge * 1e-6), "base_batch": None},
        "evaluation": {"every_epochs": EPOCHS},
        "seed": seed,
        "threads": threads,
    }


def measured(
    data: dict[str, Any], folder: Path, *, seed: int = 0, threads: int = 1, nudge: int = 0
) -> dict[str, float]:
    """The numbers of a teacher and a student: AP of both, and losses of the first step and of the last epochs."""
    torch.set_num_threads(threads)
    teacher = train(config(data, **settings(seed, threads, nudge)), folder / "teacher")
    story = Story()
    student = distilled(data, teacher.last_weights, **settings(seed + 1, threads, nudge))
    taught = train(student, folder / "student", callbacks=[story])
    return {"teacher AP": teacher.best_ap, "student AP": taught.best_ap, **_losses([*story.logs.values()])}


def _losses(logs: list[dict[str, float]]) -> dict[str, float]:
    """Weighted, as they are added up."""
    last = logs[-LAST:]
    names = [name for name in logs[0] if name.startswith(("loss", "crosskd"))]
    return {f"first {name}": logs[0][name] for name in names} | {
        f"last {name}": statistics.mean(values[name] for values in last) for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seeds", [0]), ("threads", [1]), ("nudges", [0])):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "data")
        for number, (seed, threads, nudge) in enumerate(product(given.seeds, given.threads, given.nudges)):
            began = time.perf_counter()
            numbers = measured(data, Path(folder) / str(number), seed=seed, threads=threads, nudge=nudge)
            told = {"seed": seed, "threads": threads, "nudge": nudge, "seconds": time.perf_counter() - began}
            sys.stdout.write(json.dumps(told | numbers) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
