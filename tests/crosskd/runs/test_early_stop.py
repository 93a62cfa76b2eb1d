"""Runs that end because they no longer get better: where they stop, what they leave, and what a resume makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.data.demo import write_demo
from crosskd.engine.callbacks import Callback, Run
from crosskd.engine.checkpoint import list_checkpoints
from crosskd.engine.stop_reason import StopReason
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from crosskd.structures import Evaluation
from crosskd.weights.files import File
from tests.support.trainings import CLASSES, Died, Story, digest
from tests.support.trainings import config as training

# No gain is large enough, so the second evaluation after the first is the last: of five epochs of 3 steps, 3 are run.
IMPATIENT = {"schedule": {"epochs": 5, "warmup_steps": 2}, "evaluation": {"patience": 2, "min_delta": 0.9}}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    return write_demo(folder, train=12, val=4, size=64, classes=len(CLASSES), seed=1).model_dump()


def config(data: dict[str, Any], **changes: Any) -> TrainConfig:
    return training(data, **{**IMPATIENT, "checkpoint": {"keep_last": 1}, "ema": {"decay": 0.9}, **changes})


class Curves(Callback):
    """The curve files it is told of, and the evaluation that each came behind."""

    def __init__(self) -> None:
        self.latest: Evaluation
        self.found: dict[str, Evaluation] = {}

    def on_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        self.latest = evaluation

    def on_file(self, run: Run, file: File) -> None:
        if file.kind == "curves":
            assert json.loads(file.path.read_text())["classes"].keys() == set(CLASSES)
            self.found[str(file.path.relative_to(run.workdir))] = self.latest


@pytest.fixture(scope="module")
def stopped(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Story, Curves]:
    """A run that stops early."""
    workdir, story, curves = tmp_path_factory.mktemp("stopped"), Story(), Curves()
    torch.set_num_threads(1)
    result = train(config(data), workdir, callbacks=[story, curves])
    assert result.reason is StopReason.OUT_OF_PATIENCE
    assert result.stopped_early.startswith("the last 2 evaluations were not better than AP 0.")
    return workdir, story, curves


def test_a_run_that_no_longer_gets_better_ends_as_a_success(stopped: tuple[Path, Story, Curves]) -> None:
    workdir, story, _ = stopped
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert (manifest["stopped_early"], manifest["steps"]) == (True, 9)
    assert manifest["stop_reason"].endswith("by more than 0.9")
    assert [evaluation["step"] for evaluation in manifest["evaluations"]] == [3, 6, 9]
    assert story.events[-3:] == ["uploading", "last.safetensors", "end"]
    assert "stopped early after step 9 of 15: the last 2 evaluations" in (workdir / "log.txt").read_text()


def test_the_best_student_and_the_last_checkpoints_stay(stopped: tuple[Path, Story, Curves]) -> None:
    workdir, story, _ = stopped
    manifest = json.loads((workdir / "manifest.json").read_text())
    best = max(story.evaluations, key=lambda evaluation: evaluation.ap)
    assert manifest["student"]["step"] == best.step
    assert manifest["weights"]["best.safetensors"]["sha256"] == digest(workdir / "best.safetensors")
    assert [path.name for path in list_checkpoints(workdir / "checkpoints")] == ["checkpoint-00000009.pt"]


def test_every_evaluation_leaves_its_curves(stopped: tuple[Path, Story, Curves]) -> None:
    workdir, _, curves = stopped
    assert list(curves.found) == [f"curves/curves-student-{step:08d}.json" for step in (3, 6, 9)]
    assert sorted(str(path.relative_to(workdir)) for path in (workdir / "curves").iterdir()) == list(curves.found)
    for name, evaluation in curves.found.items():
        assert f"{evaluation.step:08d}" in name
        drawn = json.loads((workdir / name).read_text())
        for label in CLASSES:
            curve = drawn["classes"][label]["0.50:0.95"]
            assert sum(curve) / 101 == pytest.approx(evaluation.per_class[label], abs=1e-4)


@pytest.mark.parametrize("moment", ["log 8", "evaluating", "student evaluated 9"])
def test_a_run_that_dies_stops_where_it_would_have(
    data: dict[str, Any], stopped: tuple[Path, Story, Curves], tmp_path: Path, moment: str
) -> None:
    workdir, whole, _ = stopped

    def die(event: str, run: Run) -> None:
        if event == moment and run.step >= 8:
            raise Died

    first, second = Story(die), Story()
    with pytest.raises(Died):
        train(config(data), tmp_path / "first", callbacks=[first])
    newest = list_checkpoints(tmp_path / "first" / "checkpoints")[0]
    result = train(config(data), tmp_path / "second", callbacks=[second], resume=newest)
    assert result.stopped_early
    for name in ("best.safetensors", "last.safetensors"):
        assert digest(tmp_path / "second" / name) == digest(workdir / name), name
    assert first.logs | second.logs == whole.logs
    assert result.manifest["evaluations"] == json.loads((workdir / "manifest.json").read_text())["evaluations"]


def test_a_stopped_run_goes_on_when_it_is_given_more_patience(
    data: dict[str, Any], stopped: tuple[Path, Story, Curves], tmp_path: Path
) -> None:
    patient = config(data, evaluation={"patience": 3, "min_delta": 0.9})
    result = train(patient, tmp_path, resume=stopped[0] / "checkpoints")
    assert (result.steps, bool(result.stopped_early)) == (12, True)


def test_a_requested_finish_delivers_as_an_early_stop_does(data: dict[str, Any], tmp_path: Path) -> None:
    spec = config(data, evaluation={"every_epochs": 100})
    story = Story(lambda event, run: run.request_finish() if event == "log 4" else None)
    result = train(spec, tmp_path, callbacks=[story])
    assert (result.steps, result.reason, result.stopped_early) == (4, StopReason.FINISH_ASKED, "on request")
    assert (result.manifest["stopped_early"], result.manifest["stop_reason"]) == (True, "on request")
    assert [(evaluation.step, evaluation.best) for evaluation in story.evaluations] == [(4, True)]
    assert story.events[-4:] == ["training", "uploading", "last.safetensors", "end"]
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["checkpoint-00000004.pt"]


def test_the_last_step_is_no_early_stop(data: dict[str, Any], tmp_path: Path) -> None:
    spec = config(data, schedule={"epochs": 2, "warmup_steps": 2}, evaluation={"patience": 1, "min_delta": 0.9})
    result = train(spec, tmp_path)
    assert (result.steps, result.reason, result.stopped_early) == (6, StopReason.FINISHED, "")
    assert (result.manifest["stopped_early"], result.manifest["stop_reason"]) == (False, None)
