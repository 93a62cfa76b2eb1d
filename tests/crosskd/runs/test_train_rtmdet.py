"""RTMDet's whole way: a teacher, a student by CrossKD in bf16 with an average, stopped and resumed, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.convert.convert import prepare
from crosskd.data.demo import write_demo
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from crosskd.weights.native import read_weights
from tests.support.trainings import CLASSES, Story, broken_and_resumed, digest
from tests.support.trainings import config as training

STUDENT: dict[str, Any] = {
    "detector": "rtmdet",
    "backbone": {"name": "cspnext_tiny", "width": 8},
    "postprocess": {"score_threshold": 0.0, "pre_nms": 50},
}
TEACHER = {**STUDENT, "backbone": {"name": "cspnext_s", "width": 8}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_demo(tmp_path_factory.mktemp("data"), train=8, val=2, size=64, classes=len(CLASSES)).model_dump()


def config(data: dict[str, Any], student: dict[str, Any] = STUDENT, **changes: Any) -> TrainConfig:
    values = training(data, schedule={"epochs": 2, "flat": 0.5}, **changes).model_dump(exclude_unset=True)
    return TrainConfig.model_validate({**values, "student": student})


def test_a_student_is_taught_resumed_bit_by_bit_and_exported(data: dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    teacher = train(config(data, TEACHER), tmp_path / "teacher").best_weights
    spec = config(
        data,
        precision="bf16",
        ema={"decay": 0.9},
        teacher={"weights": {"file": str(teacher)}},
        distill={"crosskd": {}, "pkd": {}},
        checkpoint={"every_steps": 1},
        export={"check_images": 2},
    )
    story = Story()
    whole = train(spec, tmp_path / "whole", callbacks=[story])
    assert {"loss_cls", "loss_bbox", "crosskd_cls", "crosskd_box", "pkd"} <= story.logs[1].keys()
    assert whole.manifest["onnx"]["check"]["images"] == 2  # and it agrees: else there is none

    resumed = broken_and_resumed(spec, tmp_path / "broken")
    assert digest(resumed.last_weights) == digest(whole.last_weights)
    assert resumed.manifest["evaluations"] == whole.manifest["evaluations"]

    away = prepare(whole.best_weights, "mmdet")
    away.write(tmp_path / "mmdet.pth")
    prepare(tmp_path / "mmdet.pth", "native").write(tmp_path / "back.safetensors")
    ours, back = (read_weights(path)[0] for path in (whole.best_weights, tmp_path / "back.safetensors"))
    assert ours.keys() == back.keys()
    assert all(torch.equal(ours[name], back[name]) for name in ours)
