"""Images that cannot be read, through whole trainings: skipped, counted and named, up to the limit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.data.demo import write_demo
from crosskd.engine.callbacks import Run
from crosskd.errors import DataError, Interrupted
from crosskd.runs.train import train
from tests.support.trainings import CLASSES, Story, digest
from tests.support.trainings import config as training

BROKEN = ["train_000002.jpg", "train_000007.jpg", "val_000001.jpg"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "data"
    found = write_demo(folder, train=12, val=6, size=64, classes=len(CLASSES), seed=1).model_dump()
    for name in BROKEN:
        (folder / "images" / name).write_bytes(b"\xff\xd8 no JPEG")
    return found


@pytest.mark.parametrize("workers", [0, 1])
def test_they_are_skipped_and_named_in_manifest_and_log(data: dict[str, Any], tmp_path: Path, workers: int) -> None:
    changes = {"loader": {"workers": workers, "cache_mib": 1}, "schedule": {"epochs": 1}}
    result = train(training(data | {"max_corrupt_images": 2}, **changes), tmp_path / "run")
    assert result.steps == 3
    assert result.manifest["skipped_images"] == BROKEN
    log = (tmp_path / "run" / "log.txt").read_text()
    for name in BROKEN:
        assert log.count(f"{name})") == 1, log
    assert log.count("image skipped: ") == len(BROKEN)


def test_one_more_than_the_limit_ends_the_run_with_all_their_names(data: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 images cannot be read, more than the 1 allowed") as caught:
        train(training(data | {"max_corrupt_images": 1}, schedule={"epochs": 1}), tmp_path / "run")
    assert caught.value.failure_class == "data"
    for name in BROKEN[:2]:
        assert name in str(caught.value)
    assert "2 images cannot be read" in (tmp_path / "run" / "log.txt").read_text()


def test_a_resumed_run_remembers_what_it_skipped_before(data: dict[str, Any], tmp_path: Path) -> None:
    """Also where the files have been mended meanwhile: they were not there when the run needed them."""

    def stop(event: str, run: Run) -> None:
        if event == "log 3":
            run.request_stop()

    spec = training(data | {"max_corrupt_images": 2}, schedule={"epochs": 2})
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "run", callbacks=[Story(stop)])
    images = Path(data["train"]["images"])
    for name in BROKEN:
        shutil.copy(images / "train_000001.jpg", images / name)
    mended = train(spec, tmp_path / "run", resume=tmp_path / "run" / "checkpoints")
    assert mended.manifest["skipped_images"] == BROKEN[:2]


def test_a_resume_is_the_run_that_was_not_stopped(data: dict[str, Any], tmp_path: Path) -> None:
    spec = training(data | {"max_corrupt_images": 2}, schedule={"epochs": 2}, loader={"workers": 1})
    whole = train(spec, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "run", callbacks=[Story(lambda e, run: run.request_stop() if e == "log 2" else None)])
    resumed = train(spec, tmp_path / "run", resume=tmp_path / "run" / "checkpoints")
    assert digest(resumed.last_weights) == digest(whole.last_weights)
    assert resumed.manifest["skipped_images"] == whole.manifest["skipped_images"] == BROKEN
