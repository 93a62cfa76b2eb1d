"""How long a training step of the demo's size waits for its data: the real loop, loader and images."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from crosskd.data.demo import write_demo
from crosskd.engine.callbacks import Callback, Run
from crosskd.engine.loop import fit
from crosskd.runs.parts import build_parts
from crosskd.spec.config import TrainConfig
from crosskd.spec.presets import load_recipe

RECIPE = "demo_student"  # the lightest step of the demo: it asks for data most often
IMAGES = 480  # two ends of an epoch lie within the measured steps
WARM, STEPS = 5, 60  # the first steps wait for the loader process to start


class _Readings(Callback):
    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def on_log(self, run: Run, values: dict[str, float]) -> None:  # noqa: ARG002 (a callback is handed more)
        self.values.append(values)


def measure(threads: int, device: str = "cpu") -> tuple[float, float]:
    """The share of the time in which a step waits for its batch, and the seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        readings = _Readings()
        config = _config(folder, threads, device)
        training = build_parts(config, pretrained=False).training
        run = Run(config, Path(folder), total_steps=WARM + STEPS, steps_per_epoch=training.schedule.steps_per_epoch)
        fit(run, training, readings, save=lambda: None, evaluate=lambda: "")
    behind = readings.values[1:]  # each over as many steps as the next
    seconds = [1 / values["steps_per_second"] for values in behind]
    waited = [values["data_wait"] * step for values, step in zip(behind, seconds, strict=True)]
    return sum(waited) / sum(seconds), statistics.mean(seconds)


def _config(folder: str, threads: int, device: str) -> TrainConfig:
    recipe = load_recipe(RECIPE)
    data = write_demo(folder, train=IMAGES, val=1).model_dump()
    schedule = recipe["schedule"] | {"max_steps": WARM + STEPS}
    fixed = {"data": data, "schedule": schedule, "log_every": WARM, "threads": threads, "device": device}
    return TrainConfig.model_validate(recipe | fixed)
