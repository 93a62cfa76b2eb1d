from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from crosskd.engine.results import Results
from crosskd.spec.config import EvaluationConfig, ModelConfig
from crosskd.spec.results.files import BEST_FILES
from crosskd.structures import Curves, Evaluation


def results(folder: Path) -> Results:
    return Results(folder, ModelConfig.model_validate({"backbone": {"name": "resnet_tiny"}}), ["cat"])


def evaluation(ap: float, step: int = 1) -> Evaluation:
    drawn = Curves(("cat",), np.zeros((3, 1, 101)))
    return Evaluation("student", step, 1.0, {"AP": ap}, {"cat": ap}, {"cat": {"AP50": ap}}, curves=drawn)


def after(folder: Path, *aps: float) -> Results:
    found = results(folder)
    for step, ap in enumerate(aps):
        found.add(evaluation(ap, step), nn.Linear(1, 1))
    return found


@pytest.mark.parametrize(
    ("aps", "patience", "min_delta", "stops"),
    [
        ([0.1, 0.2, 0.2], None, 0.0, False),
        ([], 1, 0.0, False),
        ([0.1], 1, 0.0, False),
        ([0.1, 0.2], 1, 0.0, False),
        ([0.1, 0.1], 1, 0.0, True),  # as good is not better
        ([0.3, 0.2, 0.1], 3, 0.0, False),
        ([0.3, 0.2, 0.1, 0.2], 3, 0.0, True),
        ([0.3, 0.2, 0.1, 0.31], 3, 0.0, False),
        ([0.3, 0.1, 0.31, 0.1], 2, 0.0, False),  # the count starts anew
        ([0.30, 0.31, 0.32], 2, 0.02, True),
        ([0.30, 0.31, 0.33], 2, 0.02, False),  # small gains add up
        ([0.0, 0.0, 0.0], 2, 0.0, True),
        ([-1.0, -1.0, -1.0], 1, 0.0, False),  # nothing was measured
        ([-1.0, 0.2, -1.0, 0.1], 1, 0.0, True),
    ],
)
def test_patience(tmp_path: Path, aps: list[float], patience: int | None, min_delta: float, stops: bool) -> None:
    config = EvaluationConfig(patience=patience, min_delta=min_delta)
    reason = after(tmp_path, *aps).out_of_patience(config)
    assert bool(reason) is stops


def test_the_reason_names_the_record(tmp_path: Path) -> None:
    found = after(tmp_path, 0.25, 0.24, 0.26)
    assert found.out_of_patience(EvaluationConfig(patience=1, min_delta=0.05)) == (
        "the last 2 evaluations were not better than AP 0.2500 by more than 0.05"
    )
    assert after(tmp_path, 0.25, 0.24).out_of_patience(EvaluationConfig(patience=1)) == (
        "the last 1 evaluation was not better than AP 0.2500"
    )


def test_patience_is_restored_with_the_history(tmp_path: Path) -> None:
    restored = results(tmp_path)
    restored.load_state_dict(after(tmp_path, 0.3, 0.2).state_dict(1.0))
    config = EvaluationConfig(patience=2)
    assert not restored.out_of_patience(config)
    restored.add(evaluation(0.1), nn.Linear(1, 1))
    assert restored.out_of_patience(config)


def test_the_best_is_kept_through_worse_ones_and_a_resume(tmp_path: Path) -> None:
    found, best = results(tmp_path), nn.Linear(2, 2)
    found.add(evaluation(0.1, 1), nn.Linear(2, 2))
    found.add(evaluation(0.3, 2), best)
    wanted = {name: value.clone() for name, value in best.state_dict().items()}
    with torch.no_grad():
        best.weight.zero_()  # the training goes on in place
    found.add(evaluation(0.2, 3), best)
    restored = results(tmp_path)
    restored.load_state_dict(found.state_dict(1.0))
    assert restored.best is not None
    assert (restored.best.step, restored.best.ap) == (2, 0.3)
    torch.testing.assert_close(restored.state_dict(1.0)["best_state"], wanted, rtol=0, atol=0)


def test_where_nothing_can_be_measured_the_latest_is_the_best(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    latest = nn.Linear(1, 1)
    with caplog.at_level(logging.WARNING):
        found = after(tmp_path, -1.0, -1.0)
        assert found.add(evaluation(-1.0, 2), latest).best
    assert found.best is not None
    assert found.best.step == 2
    torch.testing.assert_close(found.state_dict(1.0)["best_state"], latest.state_dict(), rtol=0, atol=0)
    assert [record.message for record in caplog.records] == [
        "the validation split has nothing to measure: the best weights will be the latest"
    ]


def test_as_good_is_not_better(tmp_path: Path) -> None:
    found = after(tmp_path, 0.0, 0.0)
    assert found.best is not None
    assert found.best.step == 0


def test_curves_are_handed_on_and_never_kept(tmp_path: Path) -> None:
    found = results(tmp_path)
    told = found.add(evaluation(0.3), nn.Linear(1, 1))
    found.add_teacher(evaluation(0.4))
    assert told.curves is not None
    state = found.state_dict(1.0)
    for kept in (state["teacher"], state["best"], *state["evaluations"]):
        assert "curves" not in kept
        assert kept["class_metrics"] == {"cat": {"AP50": kept["metrics"]["AP"]}}
    assert found.evaluations[0] == told


def test_the_files_of_the_best_and_of_the_teacher_travel_in_the_checkpoint(tmp_path: Path) -> None:
    """As bytes that a reader of tensors alone takes, and come out of it as they were."""
    found = results(tmp_path)
    found.add_teacher(with_files(evaluation(0.4, 0), b"the teacher's"))
    for ap, step, content in ((0.2, 1, b"first"), (0.3, 2, b"best"), (0.1, 3, b"worse")):
        found.add(with_files(evaluation(ap, step), content), nn.Linear(1, 1))
    torch.save(found.state_dict(1.0), tmp_path / "state.pt")
    restored = results(tmp_path)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    written = [restored.write_file(kept) for kept in BEST_FILES]
    assert [(file.name, file.kind, file.step, file.path.read_bytes()) for file in written if file] == [
        ("matches.safetensors", "matches", 2, b"best"),
        ("teacher_matches.safetensors", "teacher_matches", 0, b"the teacher's"),
        ("detections.json.gz", "detections", 2, b"all of best"),
        ("teacher_detections.json.gz", "detections", 0, b"all of the teacher's"),
    ]


def with_files(measured: Evaluation, content: bytes) -> Evaluation:
    return replace(measured, matches=content, samples=content, detections=lambda: b"all of " + content)


def test_a_checkpoint_of_an_earlier_version_has_no_files(tmp_path: Path) -> None:
    state = after(tmp_path, 0.5).state_dict(1.0)
    del state["matches"]
    restored = results(tmp_path)
    restored.load_state_dict(state)
    assert [restored.write_file(kept) for kept in BEST_FILES] == [None] * 4
