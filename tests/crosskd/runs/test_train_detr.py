"""A DETR taught by another type of another width: a training in bf16 with an average, stopped and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.data.demo import write_demo
from crosskd.runs.train import train
from crosskd.spec.config import ModelConfig, TrainConfig
from tests.support import detrs
from tests.support.trainings import CLASSES, Story, broken_and_resumed, digest
from tests.support.trainings import config as training

FINE, LIGHT = detrs.config("d_fine", width=64), detrs.config("lw_detr", width=64, scales=[1])
PAIRS = [
    ("rt_detr", FINE, {"queries": "teacher"}),
    ("d_fine", FINE, {"queries": "student"}),
    ("rf_detr", LIGHT, {"queries": "student"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "taught_by", "knobs"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_a_student_is_taught_and_resumed_bit_by_bit_and_still_replays(
    kind: str, taught_by: ModelConfig, knobs: dict[str, Any], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    data = write_demo(tmp_path / "data", train=8, val=2, size=64, classes=len(CLASSES)).model_dump()

    def config(student: ModelConfig, **changes: Any) -> TrainConfig:
        values = training(data, schedule={"epochs": 2}, **changes).model_dump(exclude_unset=True)
        return TrainConfig.model_validate({**values, "student": student.model_dump(exclude_unset=True)})

    teacher = train(config(taught_by), tmp_path / "teacher").best_weights
    spec = config(
        detrs.config(kind),
        precision="bf16",
        ema={"decay": 0.9},
        teacher={"weights": {"file": str(teacher)}},
        distill={"crosskd": knobs, "direct": {}, "fitnet": {}},
        checkpoint={"every_steps": 1},
    )
    story = Story()
    whole = train(spec, tmp_path / "whole", callbacks=[story])
    bins = {"crosskd_bins", "direct_bins"} if kind == "d_fine" else set()
    told = {"crosskd_cls", "crosskd_box", "crosskd_giou", "direct_cls", "direct_box", "direct_giou", "fitnet"} | bins
    assert told <= story.logs[1].keys()
    assert any(name.startswith("crosskd.align.memory") for name in whole.manifest["adapters"])

    resumed = broken_and_resumed(spec, tmp_path / "broken")
    assert digest(resumed.last_weights) == digest(whole.last_weights)
    assert resumed.manifest["evaluations"] == whole.manifest["evaluations"]
    for path, model in ((teacher, taught_by), (whole.last_weights, detrs.config(kind))):
        detrs.replays(path, model, len(CLASSES))
