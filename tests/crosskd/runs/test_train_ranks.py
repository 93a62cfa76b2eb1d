"""Whole trainings of two processes by `python -m crosskd train`: their files, their end, and going on after it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crosskd.data.demo import write_demo
from crosskd.engine.checkpoint import list_checkpoints, read_checkpoint

pytestmark = pytest.mark.slow

RECIPE: dict[str, Any] = {
    "student": {
        "backbone": {"name": "resnet_tiny", "width": 8},
        "neck": {"channels": 16},
        "head": {"channels": 16, "depth": 2, "norm_groups": 4, "reg_max": 8},
        "strides": [8, 16, 32],
        "postprocess": {"score_threshold": 0.0},
    },
    "augment": {"short_edges": [64, 96], "long_edge": 96, "val_short_edge": 64},
    "loader": {"workers": 1},
    "batch_size": 2,
    "accumulate": 2,
    "ema": {"decay": 0.9},
    "optimizer": {"name": "adamw", "lr": 0.002, "base_batch": 4},
    "schedule": {"epochs": 4, "warmup_steps": 2},
    "checkpoint": {"every_steps": 1},
    "device": "cpu",
    "threads": 1,
    "log_every": 1,
    "gpus": 2,
}
IMAGES = 22  # 11 batches of an epoch, 6 for each rank with one of them twice; 3 steps


class Training:
    """`python -m crosskd train` on two processes."""

    def __init__(self, recipe: Path, data: Path, workdir: Path, *more: str) -> None:
        self.workdir = workdir
        options = ["--workdir", str(workdir), "--data", str(data), *more]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crosskd", "train", str(recipe), *options],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        said, errors = self.process.communicate(timeout=240)
        return self.process.returncode, said, errors

    def steps(self) -> int:
        log = self.workdir / "log.txt"
        return max(map(int, re.findall(r"step (\d+) of", log.read_text() if log.exists() else "")), default=0)

    def rank(self, number: int) -> int:
        """The process id of a rank."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        wanted = f"RANK={number}"
        (pid,) = [int(pid) for pid in children if wanted in Path(f"/proc/{pid}/environ").read_text().split("\0")]
        return pid


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_demo(folder, train=IMAGES, val=5, size=64, classes=3, seed=1)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def whole(recipe: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    training = Training(recipe, data, tmp_path_factory.mktemp("whole") / "run")
    code, said, errors = training.end()
    assert code == 0, errors
    assert "AP " in said
    return training.workdir


def digests(workdir: Path) -> dict[str, str]:
    names = ("best.safetensors", "last.safetensors")
    return {name: hashlib.sha256((workdir / name).read_bytes()).hexdigest() for name in names}


def test_two_processes_are_one_run(whole: Path) -> None:
    log = (whole / "log.txt").read_text()
    assert re.findall(r"step (\d+) of 12", log) == [str(step) for step in range(1, 13)]
    assert "12 steps of 8 images" in log
    assert "lr 0.004" in log  # eight images a step, twice the base batch of four
    assert "wrote" not in (whole / "log-rank-1.txt").read_text()
    manifest = json.loads((whole / "manifest.json").read_text())
    assert (manifest["steps"], manifest["config"]["gpus"]) == (12, 2)
    assert len(manifest["evaluations"]) == 4
    first, second = read_checkpoint(whole / "checkpoints")["random"]
    assert not torch.equal(first["torch"], second["torch"])


@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_that_lost_a_rank_goes_on_to_the_same_bits(
    victim: int, whole: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    last = random.Random(f"{victim} {time.time()}").randint(2, 9)
    training = Training(recipe, data, tmp_path / "run")
    while training.steps() < last:
        assert training.process.poll() is None, training.end()
        time.sleep(0.02)
    os.kill(training.rank(victim), signal.SIGKILL)
    code, _, errors = training.end()  # within its patience, which is far below that of a collective
    assert code == 1
    assert f"rank {victim} was killed by signal 9 (SIGKILL)" in errors
    assert list_checkpoints(tmp_path / "run" / "checkpoints"), last

    code, _, errors = Training(recipe, data, tmp_path / "run", "--resume").end()
    assert code == 0, errors
    assert digests(tmp_path / "run") == digests(whole), last
    ours, theirs = (json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "run", whole))
    assert ours["evaluations"] == theirs["evaluations"]
    ours, theirs = (read_checkpoint(folder / "checkpoints") for folder in (tmp_path / "run", whole))
    for part in ("trainee", "optimizer", "ema", "random", "position"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


def test_a_stop_is_a_checkpoint(whole: Path, recipe: Path, data: Path, tmp_path: Path) -> None:
    training = Training(recipe, data, tmp_path / "run")
    while training.steps() < 2:
        assert training.process.poll() is None, training.end()
        time.sleep(0.02)
    training.process.send_signal(signal.SIGINT)
    code, _, errors = training.end()
    assert code == 130, errors
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[0]
    assert int(newest.stem[-8:]) == training.steps()
    code, _, errors = Training(recipe, data, tmp_path / "run", "--resume").end()
    assert code == 0, errors
    assert digests(tmp_path / "run") == digests(whole)


def test_one_process_cannot_go_on_where_two_were(whole: Path, recipe: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (whole / "checkpoints").rename(tmp_path / "run" / "checkpoints")
    try:
        code, _, errors = Training(recipe, data, tmp_path / "run", "--resume", "--set", "gpus=1").end()
    finally:
        (tmp_path / "run" / "checkpoints").rename(whole / "checkpoints")
    assert code == 1
    assert "/gpus was 2 and is 1" in errors
