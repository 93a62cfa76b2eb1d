"""Two steps of every published recipe on a few small images: its detectors, heads, losses, terms, optimizer and
schedule, with narrow backbones, and with a teacher's file that does not say its model, as MMDetection's do not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from crosskd.__main__ import app
from crosskd.data.demo import write_demo
from crosskd.engine.callbacks import Callback, Run
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from crosskd.spec.presets import load_recipe
from crosskd.weights.native import read_weights
from tests.support.narrow import narrow, tame
from tests.support.published import ROWS

CLASSES = 3
QUICK = ["gfl_r18_r50", "retinanet_r50_swint", "fcos_r50_r101_pkd", "atss_r50_r101"]  # one of each detector
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ROWS if name not in QUICK]
RECIPES = [*QUICK, *SLOW]
FIRST_FACTOR = {"linear": 0.001, "constant": 1 / 3}  # of the learning rate
SECOND_FACTOR = {"linear": 0.001 + 0.999 / 500, "constant": 1 / 3}
TERMS = {"gfl": 2, "retinanet": 2, "fcos": 2, "atss": 3}  # of CrossKD: classes, boxes, centerness
FROZEN = ("conv1.", "bn1.", "layer1.", *(f"features.{block}." for block in range(4)))  # of a ResNet, of MobileNetV2
TRAINED = ("layer2.", "features.4.")


class Log(Callback):
    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def on_log(self, run: Run, values: dict[str, float]) -> None:
        self.values.append(values)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.set_num_threads(1)
    return write_demo(tmp_path_factory.mktemp("data"), train=4, val=1, size=64, classes=CLASSES, seed=3).model_dump()


def small(name: str, data: dict[str, Any], folder: Path) -> TrainConfig:
    """The recipe with narrow backbones, 32 channels, small images, batches of two and two steps; and its files."""
    values = load_recipe(name)
    student, teacher = values["student"], values["teacher"]["model"]
    narrow(student)
    narrow(teacher)
    # Of such widths nobody has ImageNet weights; a file of them serves, as the FCOS recipes want one anyway.
    begins = tame({**student, "backbone": {**student["backbone"], "init": "random"}}, CLASSES, 1)
    begins = {key.removeprefix("backbone."): value for key, value in begins.items() if key.startswith("backbone.")}
    save_file(begins, folder / "backbone.safetensors")
    save_file(tame(teacher, CLASSES, 2), folder / "teacher.safetensors")
    student["backbone"]["init"] = {"file": str(folder / "backbone.safetensors")}
    values["teacher"]["weights"] = {"file": str(folder / "teacher.safetensors")}
    edges = values["augment"]["short_edges"]
    values["augment"] |= {"short_edges": [edge * 64 // edges[0] for edge in edges], "long_edge": 96}
    values["loader"]["workers"] = 0
    values["schedule"]["max_steps"] = 2
    return TrainConfig.model_validate(
        values
        | {"data": data, "batch_size": 2, "accumulate": 1, "evaluation": {"teacher_first": False}}
        | {"device": "cpu", "threads": 1, "log_every": 1, "export": None}
    )


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name: str, data: dict[str, Any], tmp_path: Path) -> None:
    row, config, log = ROWS[name], small(name, data, tmp_path), Log()
    result = train(config, tmp_path / "run", callbacks=[log])

    assert result.steps == 2
    assert len(log.values) == 2
    assert all(math.isfinite(value) for values in log.values for value in values.values())
    rate = 0.01 * 2 / 16
    factors = [FIRST_FACTOR[config.schedule.warmup], SECOND_FACTOR[config.schedule.warmup]]
    assert [values["lr"] for values in log.values] == pytest.approx([rate * factor for factor in factors])

    terms = {key for key, value in log.values[0].items() if value > 0}
    assert len([key for key in terms if key.startswith("crosskd_")]) == TERMS[row.detector]
    assert len([key for key in terms if key.startswith("pkd")]) == (row.pkd is not None)

    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["config"]["student"]["detector"] == row.detector
    begin, end = read_weights(tmp_path / "backbone.safetensors")[0], read_weights(result.last_weights)[0]
    moved = {key for key, value in begin.items() if not torch.equal(value, end[f"backbone.{key}"])}
    assert any(key.startswith(TRAINED) for key in moved)
    assert not any(key.startswith(FROZEN) for key in moved)
    norms = {key for key in moved if f"{key.rpartition('.')[0]}.running_mean" in begin}
    assert not norms if row.detector == "fcos" else norms  # FCOS's batch norm is frozen wholly


def test_the_documented_command_on_a_folder_like_coco(data: dict[str, Any], tmp_path: Path) -> None:
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (coco / "annotations" / f"instances_{split}2017.json").symlink_to(data[split]["annotations"])
        (coco / f"{split}2017").symlink_to(data[split]["images"])
    config = small("gfl_r18_r50", data, tmp_path)
    values = config.model_dump(mode="json", exclude={"data": True, "teacher": {"weights"}})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(values))

    options = ["--data", coco, "--teacher", tmp_path / "teacher.safetensors", "--workdir", tmp_path / "run"]
    done = CliRunner().invoke(app, ["train", str(recipe), *map(str, options), "--set", "schedule.max_steps=1"])
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["steps"] == 1
    assert manifest["config"]["data"]["val"]["images"] == str(coco / "val2017")
