"""RTMDet's and YOLOX's whole way: a teacher, a student by CrossKD in bf16, stopped and resumed, exported."""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Kind:
    """A detector with the backbone that it is published with, and what its training says."""

    student: dict[str, Any]
    backbone: str  # of the teacher
    schedule: dict[str, Any]
    terms: set[str]
    last: set[str] = field(default_factory=set)  # further ones of the last epoch alone


KINDS = {
    "rtmdet": Kind(
        {"backbone": {"name": "cspnext_tiny", "width": 8}},
        "cspnext_s",
        {"flat": 0.5},
        {"loss_cls", "loss_bbox", "crosskd_cls", "crosskd_box", "pkd"},
    ),
    "yolox": Kind(
        {"backbone": {"name": "cspdarknet_nano", "width": 8}, "losses": {"l1_last_epochs": 1}},
        "cspdarknet_s",
        {"warmup": "quadratic", "final_epochs": 1},
        {"loss_cls", "loss_bbox", "loss_obj", "crosskd_cls", "crosskd_box", "crosskd_objectness", "pkd"},
        {"loss_l1"},
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_demo(tmp_path_factory.mktemp("data"), train=8, val=2, size=64, classes=len(CLASSES)).model_dump()


def config(data: dict[str, Any], name: str, *, teaches: bool = False, **changes: Any) -> TrainConfig:
    kind = KINDS[name]
    values = training(data, schedule={"epochs": 2, **kind.schedule}, **changes).model_dump(exclude_unset=True)
    student = {"detector": name, "postprocess": {"score_threshold": 0.0, "pre_nms": 50}, **kind.student}
    if teaches:
        student["backbone"] = {"name": kind.backbone, "width": 8}
    return TrainConfig.model_validate({**values, "student": student})


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_student_is_taught_resumed_bit_by_bit_and_exported(name: str, data: dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    kind = KINDS[name]
    teacher = train(config(data, name, teaches=True), tmp_path / "teacher").best_weights
    spec = config(
        data,
        name,
        precision="bf16",
        ema={"decay": 0.9},
        teacher={"weights": {"file": str(teacher)}},
        distill={"crosskd": {}, "pkd": {}},
        checkpoint={"every_steps": 1},
        export={"check_images": 2},
    )
    story = Story()
    whole = train(spec, tmp_path / "whole", callbacks=[story])
    assert all(kind.terms <= values.keys() for values in story.logs.values())
    assert [kind.last <= values.keys() for values in story.logs.values()] == [not kind.last] * 2 + [True] * 2
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
