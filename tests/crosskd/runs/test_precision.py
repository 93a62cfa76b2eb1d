"""Whole trainings in other number formats and memory layouts, and compiled, against plain fp32 ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from crosskd.data.demo import write_demo
from crosskd.engine.checkpoint import read_checkpoint
from crosskd.engine.compiled import require_compiler
from crosskd.errors import ConfigError
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from crosskd.weights.native import read_weights
from tests.support.trainings import CLASSES, Story, distilled
from tests.support.trainings import config as training

# Of the first step's losses and gradient norm against those of fp32, relative.
TOLERANCES = {"bf16": 0.03, "fp16": 0.005, "channels_last": 1e-4, "activation_checkpointing": 1e-5, "compile": 1e-4}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    return write_demo(folder, train=8, val=2, size=64, classes=len(CLASSES), seed=1).model_dump()


@pytest.fixture(scope="module")
def teacher(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train(training(data, schedule={"max_steps": 1}, seed=9), tmp_path_factory.mktemp("teacher")).best_weights


def config(data: dict[str, Any], teacher: Path, **changes: Any) -> TrainConfig:
    """Two steps on images of one size: what is compiled is compiled once."""
    values = {"augment": {"short_edges": [64], "long_edge": 64}, "schedule": {"max_steps": 2}} | changes
    return distilled(data, teacher, **values)


@pytest.fixture(scope="module")
def plain(
    data: dict[str, Any], teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Story, dict[str, torch.Tensor]]:
    story = Story()
    torch.set_num_threads(1)
    result = train(config(data, teacher), tmp_path_factory.mktemp("plain"), callbacks=[story])
    return story, read_weights(result.last_weights)[0]


COMPILED = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # Dynamo looks at every input of a graph, also at the maps between two of them.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.mark.parametrize(
    "knob", ["bf16", "fp16", "channels_last", "activation_checkpointing", pytest.param("compile", marks=COMPILED)]
)
def test_a_distillation_step_has_the_losses_of_fp32(
    data: dict[str, Any], teacher: Path, plain: tuple[Story, dict[str, torch.Tensor]], tmp_path: Path, knob: str
) -> None:
    change = {"precision": knob} if knob in ("bf16", "fp16") else {knob: True}
    story = Story()
    result = train(config(data, teacher, **change), tmp_path, callbacks=[story])
    expected, weights = plain
    for name, value in expected.logs[1].items():
        if name != "grad_norm" or knob != "fp16":  # whose first scale may overflow: then there is no step
            assert story.logs[1][name] == pytest.approx(value, rel=TOLERANCES[knob], abs=1e-6), name
    ours = read_weights(result.last_weights)[0]
    assert {name: value.dtype for name, value in ours.items()} == {n: v.dtype for n, v in weights.items()}
    saved = read_checkpoint(tmp_path / "checkpoints")["trainee"]
    assert {name.removeprefix("student.") for name in saved} == set(weights)  # no prefix of a wrapper in any name
    if knob == "compile":
        assert counters["stats"]["unique_graphs"] > 0
    if change.get(knob):
        assert story.logs[2]["loss"] == pytest.approx(expected.logs[2]["loss"], rel=1e-3)


def test_a_run_may_go_on_in_the_other_layout(data: dict[str, Any], teacher: Path, tmp_path: Path) -> None:
    """What the optimizer remembers was laid out otherwise; a fused step would mix it up. Within 0.1 % of the loss."""
    losses = []
    for first, second in ((False, False), (False, True), (True, False)):
        workdir, story = tmp_path / f"{first}-{second}", Story()
        train(config(data, teacher, channels_last=first), workdir)
        longer = config(data, teacher, channels_last=second, schedule={"max_steps": 4})
        train(longer, workdir, callbacks=[story], resume=workdir / "checkpoints")
        losses.append([story.logs[step]["loss"] for step in (3, 4)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)


def test_compile_without_a_compiler_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = {"annotations": "/nowhere.json", "images": "/nowhere"}
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no g\+\+ here") as caught:
        train(training({"train": split, "val": split}, compile=True), tmp_path / "run")
    assert caught.value.where == "/compile"
    assert "Install a C++ compiler" in caught.value.remedy


def test_the_compiler_is_the_one_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = shutil.which("python3")
    assert python is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    for device, variable in (("cpu", "CXX"), ("cuda", "CC")):
        monkeypatch.setenv(variable, python)
        require_compiler(torch.device(device))
        monkeypatch.setenv(variable, "no-such-compiler")
        with pytest.raises(ConfigError, match="there is no no-such-compiler here"):
            require_compiler(torch.device(device))
    monkeypatch.delenv("CC")
    with pytest.raises(ConfigError, match="there is no gcc or clang here"):
        require_compiler(torch.device("cuda"))
