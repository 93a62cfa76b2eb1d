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
    "activation_checkpointing": True,
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

    def come_to(self, step: int) -> None:
        """Wait until it has told that step."""
        while self.steps() < step:
            assert self.process.poll() is None, self.end()
            time.sleep(0.02)

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


def test_a_run_that_is_stopped_and_loses_each_rank_goes_on_to_the_same_bits(
    whole: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    """Ctrl-C, then the loss of one rank, then that of the other: each at some moment behind a new step."""
    run = tmp_path / "run"
    training = Training(recipe, data, run)
    training.come_to(2)
    training.process.send_signal(signal.SIGINT)
    code, _, errors = training.end()
    assert code == 130, errors
    assert int(list_checkpoints(run / "checkpoints")[0].stem[-8:]) == training.steps()

    moments = [training.steps()]
    for victim in (0, 1):
        training = Training(recipe, data, run, "--resume")
        training.come_to(moments[-1] + 1)
        time.sleep(random.SystemRandom().uniform(0, 0.2))
        os.kill(training.rank(victim), signal.SIGKILL)
        code, _, errors = training.end()  # within its patience, which is far below that of a collective
        moments.append(training.steps())
        assert code == 1, moments
        assert f"rank {victim} was killed by signal 9 (SIGKILL)" in errors
    code, _, errors = Training(recipe, data, run, "--resume").end()
    assert code == 0, errors
    assert digests(run) == digests(whole), moments
    ours, theirs = (json.loads((folder / "manifest.json").read_text()) for folder in (run, whole))
    assert ours["evaluations"] == theirs["evaluations"]
    ours, theirs = (read_checkpoint(folder / "checkpoints") for folder in (run, whole))
    for part in ("trainee", "optimizer", "ema", "random", "position"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


def test_one_process_cannot_go_on_where_two_were(whole: Path, recipe: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (whole / "checkpoints").rename(tmp_path / "run" / "checkpoints")
    try:
        code, _, errors = Training(recipe, data, tmp_path / "run", "--resume", "--set", "gpus=1").end()
    finally:
        (tmp_path / "run" / "checkpoints").rename(whole / "checkpoints")
    assert code == 1
    assert "/gpus was 2 and is 1" in errors
