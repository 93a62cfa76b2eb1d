from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from crosskd.engine.callbacks import Run, TrainResult
from crosskd.engine.progress import ProgressLine
from crosskd.spec.config import TrainConfig
from crosskd.structures import Evaluation


@pytest.mark.parametrize(("reason", "shown"), [("", "done"), ("the last 2 evaluations ...", "stopped early")])
def test_the_line_says_how_it_ended(tmp_path: Path, reason: str, shown: str) -> None:
    split = {"annotations": "a.json", "images": "images"}
    spec = {"data": {"train": split, "val": split}, "student": {"backbone": {"name": "resnet_tiny"}}}
    run = Run(TrainConfig.model_validate(spec), tmp_path, step=6, total_steps=9)
    screen = io.StringIO()
    with ProgressLine.on(Console(file=screen, force_terminal=True, width=120)) as line:
        line.on_phase(run, "training")
        line.on_evaluation(run, Evaluation("student", 6, 1.0, {"AP": 0.25, "AP50": 0.5, "AP75": 0.125}))
        line.on_end(run, TrainResult(0.25, 6, 6, {}, tmp_path, tmp_path, reason))
    assert "student after step 6: AP 0.250  AP50 0.500  AP75 0.125" in screen.getvalue()
    assert shown in screen.getvalue()
    assert ("done" in screen.getvalue()) is (not reason)
