"""The choice of a memory layout: measured on copies, remembered, and kept by a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.data.demo import write_demo
from crosskd.engine.callbacks import Run
from crosskd.engine.device import MixedPrecision
from crosskd.runs import layout
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from crosskd.weights.native import read_weights
from tests.support import small
from tests.support.trainings import CLASSES, Died, Story
from tests.support.trainings import config as training

CPU = torch.device("cpu")
NOWHERE = {"train": {"annotations": "/a.json", "images": "/a"}, "val": {"annotations": "/b.json", "images": "/b"}}
ENOUGH = layout.LEAST_STEPS


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def chosen(config: TrainConfig, model: torch.nn.Module, steps: int = ENOUGH, **more: Any) -> layout.Layout:
    amp = MixedPrecision.on(CPU, config.precision)
    return layout.choose(config, model, amp, steps=steps, classes=small.CLASSES, **more)


@pytest.mark.parametrize(
    ("changes", "more", "last", "how"),
    [
        ({"channels_last": True}, {}, True, "configured"),
        ({"channels_last": False}, {"saved": True}, False, "configured"),
        ({}, {"saved": True}, True, "resumed"),
        ({"compile": True}, {}, False, "not measured: each layout would be compiled"),
        ({}, {"steps": ENOUGH - 1}, False, "not measured: the run has fewer than 2000 steps"),
    ],
)
def test_what_needs_no_measurement(changes: dict[str, Any], more: dict[str, Any], last: bool, how: str) -> None:
    assert chosen(training(NOWHERE, **changes), torch.nn.Identity(), **more) == layout.Layout(last, how)


def test_a_measurement_touches_nothing_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, config, model = tmp_path / "layouts.json", training(NOWHERE), small.detector(detector="rtmdet").eval()
    file.write_text("{ damaged")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strides = [x.stride() for x in model.parameters()]
    first = chosen(config, model, file=file)
    assert first.how == "measured"
    assert first.ratio is not None
    assert first.channels_last == (first.ratio < layout.GAIN)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert [x.stride() for x in model.parameters()] == strides
    assert not model.training
    assert all(x.grad is None for x in model.parameters())
    assert "layouts.json is left out" in caplog.text

    def fail(*_: Any) -> float:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(layout, "to_channels_last", fail)
    again = chosen(config, model, file=file)
    assert (again.channels_last, again.how, again.ratio) == (first.channels_last, "remembered", first.ratio)
    other = chosen(training(NOWHERE, batch_size=2), model, file=file)  # another step: it is measured, which fails here
    assert other == layout.Layout(False, "not measured: the made-up steps failed")
    assert "could not be measured: out of memory" in caplog.text
    (entry,) = json.loads(file.read_text()).values()
    assert entry == {"channels_last": first.channels_last, "ratio": first.ratio}


def test_a_run_is_that_of_its_choice_and_a_resume_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_demo(tmp_path, train=8, val=2, size=64, classes=len(CLASSES), seed=1).model_dump()
    monkeypatch.setattr(layout, "LEAST_STEPS", 1)
    weights = []
    for value, gain in ((True, 1.0), (False, 1.0), ("auto", 0.0)):
        monkeypatch.setattr(layout, "GAIN", gain)
        result = train(training(data, channels_last=value), tmp_path / f"{value}")
        weights.append(read_weights(result.last_weights)[0])
    torch.testing.assert_close(weights[2], weights[1], rtol=0, atol=0)

    def die(event: str, _: Run) -> None:
        if event == "checkpoint 2":
            raise Died

    spec, run = training(data, checkpoint={"every_steps": 1}), tmp_path / "run"
    monkeypatch.setattr(layout, "GAIN", 1e9)
    with pytest.raises(Died):
        train(spec, run, callbacks=[Story(die)])
    monkeypatch.setattr(layout, "GAIN", 0.0)  # measured now, it would be the other one
    result = train(spec, run, resume=run / "checkpoints")
    assert result.manifest["layout"] == {"channels_last": True, "how": "resumed", "ratio": None}
    torch.testing.assert_close(read_weights(result.last_weights)[0], weights[0], rtol=0, atol=0)
