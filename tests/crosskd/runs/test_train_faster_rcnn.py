"""Faster R-CNN's whole way: a teacher, a student by CrossKD in bf16 with an average, stopped and resumed; a start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd import load
from crosskd.data.demo import write_demo
from crosskd.runs.start import begin
from crosskd.runs.train import train
from crosskd.spec.config import FileRef, TrainConfig
from crosskd.weights.native import read_weights, write_weights
from tests.support import small
from tests.support.trainings import CLASSES, Story, broken_and_resumed, digest
from tests.support.trainings import config as training

STUDENT: dict[str, Any] = small.two_stage_config().model_dump(exclude_unset=True)
TEACHER = {**STUDENT, "backbone": {"name": "resnet_tiny", "width": 16}, "neck": {"channels": 24}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_demo(tmp_path_factory.mktemp("data"), train=8, val=2, size=64, classes=len(CLASSES)).model_dump()


def config(data: dict[str, Any], student: dict[str, Any] = STUDENT, **changes: Any) -> TrainConfig:
    values = training(data, schedule={"epochs": 2}, **changes).model_dump(exclude_unset=True)
    return TrainConfig.model_validate({**values, "student": student})


def test_a_student_is_taught_and_resumed_bit_by_bit(data: dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    teacher = train(config(data, TEACHER), tmp_path / "teacher").best_weights
    spec = config(
        data,
        precision="bf16",
        ema={"decay": 0.9},
        teacher={"weights": {"file": str(teacher)}},
        distill={"crosskd": {}, "fitnet": {}},
        checkpoint={"every_steps": 1},
    )
    story = Story()
    whole = train(spec, tmp_path / "whole", callbacks=[story])
    assert {"loss_cls", "loss_bbox", "loss_rpn_cls", "loss_rpn_bbox", "crosskd_cls", "crosskd_box", "fitnet"} <= (
        story.logs[1].keys()
    )
    assert whole.manifest["student"]["gflops"] > 0
    assert any(name.startswith("crosskd.align") for name in whole.manifest["adapters"])

    resumed = broken_and_resumed(spec, tmp_path / "broken")
    assert digest(resumed.last_weights) == digest(whole.last_weights)
    assert resumed.manifest["evaluations"] == whole.manifest["evaluations"]
    assert load(whole.best_weights).classes == list(CLASSES)
    state, described = read_weights(whole.best_weights)[:2]
    assert "regions" in described["model"]
    assert "head.cls.weight" in state


def test_a_start_takes_the_rows_of_the_classes_of_the_same_name_and_the_background(tmp_path: Path) -> None:
    source, student = small.two_stage(1, classes=4), small.two_stage(2, classes=3)
    path = tmp_path / "start.safetensors"
    write_weights(path, source.state_dict(), model=source.config, classes=["a", "b", "c", "d"])
    new = student.head.cls.weight[1].clone()
    told = begin(student, FileRef(file=str(path)), ["c", "new", "a"], None)
    assert told["classes"] == {"kept": ["c", "a"], "new": ["new"], "left": ["b", "d"]}
    ours, theirs = student.head, source.head
    for place, row in ((0, 2), (2, 0), (3, 4)):
        assert torch.equal(ours.cls.weight[place], theirs.cls.weight[row])
    assert torch.equal(ours.cls.weight[1], new)
    for place, row in ((0, 2), (2, 0)):
        assert torch.equal(ours.box.weight[4 * place : 4 * place + 4], theirs.box.weight[4 * row : 4 * row + 4])
    assert torch.equal(ours.region.fc6.weight, theirs.region.fc6.weight)
    assert torch.equal(ours.rpn.cls_logits.weight, theirs.rpn.cls_logits.weight)
