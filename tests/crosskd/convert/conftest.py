"""A training checkpoint as a run leaves it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from crosskd.data.demo import write_demo
from crosskd.engine.checkpoint import list_checkpoints, read_checkpoint, write_checkpoint
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from crosskd.weights.native import write_weights
from tests.support import small

CLASSES = ["A", "B", "E"]  # of the demo data


@pytest.fixture(scope="session")
def checkpoint_of_a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one step of a distillation that keeps an average, with an adapter of a term in it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.set_num_threads(1)
    data = write_demo(folder / "data", train=4, val=2, size=64, classes=3, seed=1).model_dump()
    teacher = small.detector(9)
    write_weights(folder / "teacher.safetensors", teacher.state_dict(), model=teacher.config, classes=CLASSES)
    config = TrainConfig.model_validate(
        {
            "data": {**data, "classes": CLASSES},
            "student": small.config().model_dump(),
            "teacher": {"weights": {"file": str(folder / "teacher.safetensors")}},
            "augment": {"short_edges": [64], "long_edge": 64},
            "loader": {"workers": 0},
            "batch_size": 2,
            "schedule": {"max_steps": 1},
            "ema": {"decay": 0.5, "warmup": False},
            "evaluation": {"teacher_first": False},
            "device": "cpu",
            "threads": 1,
            "export": None,
        }
    )
    train(config, folder / "run")
    (path,) = list_checkpoints(folder / "run" / "checkpoints")
    content = read_checkpoint(path)
    content["trainee"]["terms.crosskd.adapter.weight"] = torch.zeros(2, 2)
    return write_checkpoint(folder / "with_adapter", 1, content).path


@pytest.fixture
def checkpoint(checkpoint_of_a_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_of_a_run.parent, tmp_path / "checkpoints")) / checkpoint_of_a_run.name
