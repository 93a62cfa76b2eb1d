"""Trainings with the teacher cache: what they report, and what a resume, another seed and loader processes find."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from crosskd.data.demo import write_demo
from crosskd.detectors.dense.detector import DenseDetector
from crosskd.errors import ConfigError
from crosskd.runs.shared_files import CacheDisk, SharedFiles
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from tests.support.trainings import CLASSES, Story, config, digest

SQUARE = {"short_edges": [64], "long_edge": 64, "letterbox": [64]}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A data set, and a teacher of it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    data = write_demo(folder / "data", train=12, val=4, size=64, classes=len(CLASSES), seed=1).model_dump()
    return data, train(config(data, schedule={"max_steps": 1}, seed=9), folder / "teacher").best_weights


def spec(made: tuple[dict[str, Any], Path], cache: dict[str, Any] | None, **changes: Any) -> TrainConfig:
    data, teacher = made
    values = {"evaluation": {"teacher_first": False}, "augment": SQUARE, **changes}
    distill = {"crosskd": {"cut": 1}, "cache": cache}
    return config(data, teacher={"weights": {"file": str(teacher)}}, distill=distill, **values)


def counted(patched: pytest.MonkeyPatch) -> list[bool]:
    """Of each batch whose pyramid is made from now on, whether the teacher makes it; its cost is that of one image."""
    features, found = DenseDetector.features, list[bool]()

    def counting(self: DenseDetector, images: torch.Tensor) -> list[torch.Tensor]:
        frozen = not any(parameter.requires_grad for parameter in self.parameters())
        found.append(frozen and len(images) > 1)
        return features(self, images)

    patched.setattr(DenseDetector, "features", counting)
    return found


def test_a_resume_and_another_seed_find_it(
    made: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SharedFiles(CacheDisk(tmp_path / "cache", 10**9))
    plain = train(spec(made, None, schedule={"max_steps": 1}), tmp_path / "plain", callbacks=[bare := Story()])
    whole = train(spec(made, {}), tmp_path / "whole", callbacks=[story := Story()], shared=disk)
    told = whole.manifest["teacher_cache"]
    assert (told["hits"], told["misses"], told["damaged"], told["full"]) == (12, 12, 0, False)
    assert told["runs"] == 6  # three batches, and as many of mirror images
    assert "teacher_cache" not in plain.manifest
    first, last = story.logs[1], story.logs[6]
    assert (first["teacher_cache_misses"], last["teacher_cache_hits"]) == (4, 4)
    assert last["teacher_cache_mib"] == pytest.approx(told["bytes"] / 2**20)
    for loss in ("crosskd_cls", "crosskd_box", "loss"):
        assert bare.logs[1][loss] == pytest.approx(first[loss], rel=1e-6)

    teachers = counted(monkeypatch)
    seed = train(spec(made, {}, seed=7), tmp_path / "seed", shared=disk)
    assert not any(teachers)
    assert digest(seed.last_weights) != digest(whole.last_weights)

    # As on another worker, whose disk knows nothing: all is made anew, and the weights are the same to the bit.
    (tmp_path / "resumed" / "checkpoints").mkdir(parents=True)
    for path in (tmp_path / "whole" / "checkpoints").glob("checkpoint-00000003.pt*"):
        shutil.copy(path, tmp_path / "resumed" / "checkpoints")
    resumed = train(
        spec(made, {"store": "memory", "limit_mib": 1}),
        tmp_path / "resumed",
        resume=tmp_path / "resumed" / "checkpoints",
        shared=SharedFiles(elsewhere := CacheDisk(tmp_path / "elsewhere", 10**9)),
    )
    assert any(teachers)
    assert digest(resumed.last_weights) == digest(whole.last_weights)
    assert not elsewhere.folder.exists()


@pytest.mark.slow  # a process of the loader
def test_loader_processes_show_the_same(made: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    disk = SharedFiles(CacheDisk(tmp_path / "cache", 10**9))
    runs = [train(spec(made, {}, loader={"workers": count}), tmp_path / str(count), shared=disk) for count in (0, 2)]
    assert [run.manifest["teacher_cache"]["runs"] for run in runs] == [6, 0]
    assert len({digest(run.last_weights) for run in runs}) == 1


def test_batches_of_several_canvases_are_refused(made: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """The demo's images have one size; with one that is narrower there are two canvases, but in a letterbox."""
    data, teacher = made
    whole = json.loads(Path(data["train"]["annotations"]).read_text())
    narrow = whole["images"][0]
    narrow["width"] = 24
    images = tmp_path / "images"
    shutil.copytree(data["train"]["images"], images)
    Image.new("RGB", (24, narrow["height"])).save(images / narrow["file_name"])
    (tmp_path / "train.json").write_text(json.dumps(whole))
    other = {**data, "train": {"annotations": str(tmp_path / "train.json"), "images": str(images)}}
    edges = {"short_edges": [64], "long_edge": 64, "val_short_edge": 64}
    with pytest.raises(ConfigError, match=r"from 32 x 64 to 64 x 64 pixels: another each time") as refused:
        train(spec((other, teacher), {}, augment=edges), tmp_path / "run")
    assert refused.value.where == "/distill/cache"
    assert "augment.letterbox" in str(refused.value)
    squares = spec((other, teacher), {}, augment=SQUARE, schedule={"max_steps": 1})
    assert train(squares, tmp_path / "squares").manifest["teacher_cache"]["runs"] == 2
