"""A training on labelled images and on others: what it says of them, and what a resume makes of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.data.demo import write_demo
from crosskd.engine.callbacks import Run
from crosskd.engine.checkpoint import read_checkpoint
from crosskd.errors import CheckpointMismatch
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from tests.support.coco_files import noise
from tests.support.trainings import CLASSES, Died, Story, config, digest, distilled


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_it_counts_them_and_goes_on_bit_by_bit(tmp_path: Path) -> None:
    data = write_demo(tmp_path / "data", train=12, val=4, size=64, classes=len(CLASSES), seed=1).model_dump()
    teacher = train(config(data, schedule={"max_steps": 1}, seed=9), tmp_path / "teacher").best_weights
    more = tmp_path / "more"
    more.mkdir()
    for number in range(5):
        noise(64, 48, seed=number).save(more / f"{number}.png")

    def spec(**section: Any) -> TrainConfig:
        # From 0 on: so little a teacher is sure of nothing else.
        section = {"images": str(more), "ratio": 0.5, "confidence": 0.0, **section}
        return distilled({**data, "unlabelled": section}, teacher)

    whole = train(spec(), tmp_path / "whole", callbacks=[story := Story()])
    assert all(values["unlabelled_images"] == 2 for values in story.logs.values())
    assert all(values["unlabelled_confident"] > 0 for values in story.logs.values())
    assert len(story.logs) == 6  # an epoch is one of the labelled images
    told = whole.manifest["data"]["unlabelled"]
    lines = "".join(f"{n}.png\n{(more / f'{n}.png').stat().st_size}\n" for n in range(5))
    assert told == {
        "images": 5, "images_used": 5, "missing": 0, "broken": 0, "repeated": 0, "validation_images_left_out": 0,
        "training_images": 0, "list_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "per_batch": 2, "per_step": 2, "ratio": 0.5, "confidence": 0.0,
    }  # fmt: skip

    def die(event: str, _: Run) -> None:
        if event == "checkpoint 3":
            raise Died

    with pytest.raises(Died):
        train(spec(), tmp_path / "broken", callbacks=[Story(die)])
    with pytest.raises(CheckpointMismatch, match=r"/data/unlabelled/ratio was 0.5 and is 1.0"):
        train(spec(ratio=1.0), tmp_path / "broken", resume=tmp_path / "broken" / "checkpoints")
    resumed = train(spec(), tmp_path / "broken", resume=tmp_path / "broken" / "checkpoints")
    assert digest(resumed.last_weights) == digest(whole.last_weights)
    saved = read_checkpoint(tmp_path / "broken" / "checkpoints")
    assert saved["settings"]["data"]["unlabelled"]["images"] == told["list_sha256"]

    alone = train(distilled(data, teacher), tmp_path / "alone")
    assert digest(alone.last_weights) != digest(whole.last_weights)
    assert "unlabelled" not in alone.manifest["data"]
