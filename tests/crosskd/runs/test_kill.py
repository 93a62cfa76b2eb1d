"""A training that is killed with SIGKILL, wherever it stands, and resumed, against one that is left alone."""

from __future__ import annotations

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
from crosskd.runs.train import train
from tests.support.trainings import CLASSES, digest
from tests.support.trainings import config as training

STEPS = 18  # 3 epochs of 12 batches, two batches a step
KILLS = 3
LINE = re.compile(r"step (\d+) of \d+ \(epoch [\d.]+\)  (.*?)  [\d.]+ steps/s")  # behind it stand speeds


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    return write_demo(folder, train=24, val=6, size=64, classes=len(CLASSES), seed=1).model_dump()


@pytest.fixture(scope="module")
def recipe(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Loader processes, accumulation, an average, clipping, multi-scale, a teacher and a term with adapters."""
    folder = tmp_path_factory.mktemp("recipe")
    torch.set_num_threads(1)
    teacher = train(training(data, schedule={"max_steps": 1}, seed=9), folder / "teacher").best_weights
    spec = training(
        data,
        teacher={"weights": {"file": str(teacher)}},
        distill={"crosskd": {"cut": 1}, "fitnet": {}},
        loader={"workers": 2, "cache_mib": 1},
        batch_size=2,
        accumulate=2,
        ema={"decay": 0.9},
        clip_norm=5.0,
        schedule={"epochs": 3, "warmup_steps": 3},
        checkpoint={"every_steps": 2, "keep_last": 2},
    )
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    return path


def start(recipe: Path, workdir: Path, *, resume: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "crosskd", "train", str(recipe), "--workdir", str(workdir)]
    workdir.mkdir(exist_ok=True)
    with (workdir / "output.txt").open("ab") as output:
        return subprocess.Popen([*command, *(["--resume"] if resume else [])], stdout=output, stderr=output)


def wait_for(process: subprocess.Popen[bytes], log: Path, step: int, *, behind: int) -> None:
    """Wait until it has told step `step`, or a later one where it resumed behind that, below the log's first `behind`
    characters: a process killed earlier may have come past the step before it died, even to the last one, behind which
    no step is told.
    """
    deadline = time.monotonic() + 240
    while True:
        ended = process.poll() is not None  # before the look: what it told last counts
        if max(figures(log, behind), default=0) >= step or resumed_at_the_end(log, behind):
            return
        assert not ended, f"it ended before step {step}"
        assert time.monotonic() < deadline, f"step {step} does not come"
        time.sleep(0.002)


def resumed_at_the_end(log: Path, behind: int) -> bool:
    return log.exists() and f"resuming after step {STEPS} " in log.read_text()[behind:]


def figures(log: Path, behind: int = 0) -> dict[int, str]:
    """Losses, learning rate and gradient norm of each step, as last said below the log's first `behind` characters."""
    return {int(step): told for step, told in LINE.findall(log.read_text()[behind:])} if log.exists() else {}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_three_kills_change_not_a_bit(recipe: Path, tmp_path: Path) -> None:
    """Weights, optimizer, average, generators, AP and the figures of every step."""
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(2**32)))
    rng = random.Random(seed)
    moments = [(step, rng.uniform(0, 0.2)) for step in sorted(rng.sample(range(3, STEPS), KILLS))]
    print(f"KILL_SEED={seed}: killed at (step, seconds behind its line) {moments}")  # noqa: T201 (to repeat it)

    whole, run = tmp_path / "whole", tmp_path / "run"
    assert start(recipe, whole, resume=False).wait(timeout=600) == 0, (whole / "output.txt").read_text()
    for number, (step, delay) in enumerate(moments):
        log = run / "log.txt"
        said = len(log.read_text()) if number else 0
        process = start(recipe, run, resume=number > 0)
        wait_for(process, log, step, behind=said)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0)  # it may have been through already
    assert start(recipe, run, resume=True).wait(timeout=600) == 0, (run / "output.txt").read_text()

    assert (run / "log.txt").read_text().count("resuming after step") == KILLS
    assert set(figures(whole / "log.txt")) == set(range(1, STEPS + 1))
    assert figures(run / "log.txt") == figures(whole / "log.txt")
    for name in ("best.safetensors", "last.safetensors"):
        assert digest(run / name) == digest(whole / name), name
    ours, theirs = (json.loads((folder / "manifest.json").read_text()) for folder in (run, whole))
    assert len(ours["evaluations"]) == 3
    for part in ("evaluations", "settings_digest", "skipped_images", "steps"):
        assert ours[part] == theirs[part]
    for model in ("student", "teacher"):
        for part in ("metrics", "per_class", "class_metrics"):
            assert ours[model][part] == theirs[model][part]
    last, expected = (read_checkpoint(list_checkpoints(folder / "checkpoints")[0]) for folder in (run, whole))
    for part in ("position", "trainee", "optimizer", "ema", "random", "scaler"):
        torch.testing.assert_close(last[part], expected[part], rtol=0, atol=0)
