"""Trainings of seconds, and what listens to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosskd.engine.callbacks import Callback, Phase, Run, TrainResult
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from crosskd.structures import Evaluation
from crosskd.weights.files import File

CLASSES = ["A", "B", "E"]
MODEL = {
    "backbone": {"name": "resnet_tiny", "width": 8},
    "neck": {"channels": 16},
    "head": {"channels": 16, "depth": 2, "norm_groups": 4, "reg_max": 8},
    "strides": [8, 16, 32],
    "postprocess": {"score_threshold": 0.0},  # even a bad detector finds something
}
SPEEDS = {"steps_per_second", "images_per_second", "data_wait", "memory_mib", "utilisation"}


def config(data: dict[str, Any], **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data": data,
        "student": MODEL,
        "augment": {"short_edges": [64, 96], "long_edge": 96, "val_short_edge": 64},
        "loader": {"workers": 0},
        "batch_size": 4,
        "optimizer": {"name": "adamw", "lr": 0.002, "base_batch": None},
        "schedule": {"epochs": 2, "warmup_steps": 2, "decay": "cosine"},
        "device": "cpu",
        "threads": 1,
        "log_every": 1,
        "export": None,  # seconds, which only the tests of it need
    }
    for name, change in changes.items():
        merges = isinstance(change, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **change} if merges else change
    return TrainConfig.model_validate(values)


def distilled(data: dict[str, Any], teacher: Path, **changes: Any) -> TrainConfig:
    return config(data, teacher={"weights": {"file": str(teacher)}}, distill={"crosskd": {"cut": 1}}, **changes)


class Story(Callback):
    """Writes down what it hears, in order; `act` may do something at a moment."""

    def __init__(self, act: Callable[[str, Run], None] = lambda event, run: None) -> None:
        self.events: list[str] = []
        self.logs: dict[int, dict[str, float]] = {}
        self.evaluations: list[Evaluation] = []
        self.act = act

    def receive(self, event: str, run: Run) -> None:
        self.events.append(event)
        self.act(event, run)

    def on_start(self, run: Run) -> None:
        self.receive("start", run)

    def on_phase(self, run: Run, phase: Phase) -> None:
        self.receive(phase, run)

    def on_log(self, run: Run, values: dict[str, float]) -> None:
        self.logs[run.step] = {name: value for name, value in values.items() if name not in SPEEDS}
        self.receive(f"log {run.step}", run)

    def on_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)
        self.receive(f"{evaluation.model} evaluated {run.step}", run)

    def on_file(self, run: Run, file: File) -> None:
        assert digest(file.path) == file.sha256
        if file.kind in ("weights", "checkpoint"):
            self.receive(file.name if file.kind == "weights" else f"checkpoint {file.step}", run)

    def on_end(self, run: Run, result: TrainResult) -> None:
        self.receive("end", run)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Died(Exception):
    """Stands for a death that no code sees coming."""


def broken_and_resumed(spec: TrainConfig, folder: Path) -> TrainResult:
    """What a training leaves that died behind its third checkpoint, once it has gone on from there."""

    def die(event: str, run: Run) -> None:
        if event == "checkpoint 3":
            raise Died

    with pytest.raises(Died):
        train(spec, folder, callbacks=[Story(die)])
    return train(spec, folder, resume=folder / "checkpoints")
