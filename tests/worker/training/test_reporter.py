from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crosskd.engine.callbacks import Run
from crosskd.evaluation.curves import write_curves
from crosskd.spec.config import TrainConfig
from crosskd.spec.results.files import FileKind
from crosskd.structures import Curves, Evaluation
from crosskd.weights.files import File, write_text
from tests.support.api_double import Double, Fault
from tests.support.worker_stack import spec
from wire import reports as wire
from wire.artifacts import curves_artifact
from wire.reports import CocoMetrics
from worker.deliver.client import AttemptClient
from worker.deliver.delivery import Undelivered
from worker.deliver.retry import Refused
from worker.folder import WorkFolder
from worker.training.reporter import Reporter

CHECKPOINT = "checkpoint-00000005.pt"
Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def reporter(attempt: AttemptClient, folder: WorkFolder, stale: threading.Event) -> Reporter:
    return Reporter(attempt, folder, stale.set, spool_megabytes=1)


@pytest.fixture
def run(folder: WorkFolder, tmp_path: Path) -> Run:
    folder.run.mkdir()
    config = TrainConfig.model_validate(spec(tmp_path, epochs=1))
    return Run(config, folder.run, phase="training", step=5, total_steps=20, steps_per_epoch=10)


def written(folder: WorkFolder, name: str, kind: FileKind) -> File:
    """A file whose content is its name, as the core tells of it."""
    path = folder.run / name
    return File(path, kind, 5, write_text(path, name))


def checkpoint(folder: WorkFolder) -> File:
    return written(folder, CHECKPOINT, "checkpoint")


def evaluation(**changes: object) -> Evaluation:
    metrics = dict.fromkeys(CocoMetrics.model_fields, 0.25) | {"APl": -1.0}
    values = {"model": "student", "step": 5, "epoch": 0.5, "metrics": metrics, "per_class": {"A": 0.5}, "best": True}
    return Evaluation(**{**values, "images": 8, "seconds": 1.5, "milliseconds_per_image": 3.5, **changes})  # type: ignore[arg-type]


def test_a_life_is_told_in_order(
    double: Double, reporter: Reporter, run: Run, folder: WorkFolder, tmp_path: Path
) -> None:
    (folder.run / "log.txt").write_text("log.txt")
    run.loss, run.eta_seconds = float("nan"), 12.5
    reporter.on_phase(run, "training")
    reporter.on_log(run, {"loss": float("nan"), "lr": 0.01})
    reporter.on_evaluation(run, evaluation())
    reporter.on_file(run, written(folder, "best.safetensors", "weights"))
    reporter.on_file(run, checkpoint(folder))
    reporter.on_file(run, written(folder, "last.safetensors", "weights"))
    reporter.on_file(run, written(folder, "manifest.json", "manifest"))
    reporter.close(60)

    assert [(point["key"], point["step"], point["value"]) for point in double.points] == [
        ("loss", 5, "NaN"),
        ("lr", 5, 0.01),
    ]
    progress = double.batches[double.batch_order[-1]]["progress"]
    assert progress == {
        "phase": "training", "step": 5, "total_steps": 20, "epoch": 0.5, "loss": None,
        "steps_per_second": None, "eta_seconds": 12.5, "waiting_for": "",
    }  # fmt: skip
    (report,) = double.evaluations
    assert (report["metrics"]["AP"], report["metrics"]["APl"], report["per_class"]) == (0.25, -1.0, {"A": 0.5})
    assert (report["best"], report["images"], report["milliseconds_per_image"]) == (True, 8, 3.5)
    sent = {name: (query, body.decode()) for name, query, body in double.uploads}
    assert sent == {
        "best.safetensors": ({"kind": "weights", "step": "5"}, "best.safetensors"),
        CHECKPOINT: ({"kind": "checkpoint", "step": "5"}, CHECKPOINT),
        "last.safetensors": ({"kind": "weights", "step": "5"}, "last.safetensors"),
        "manifest.json": ({"kind": "manifest", "step": "5"}, "manifest.json"),
        "log.txt": ({"kind": "log"}, "log.txt"),
    }


def test_curves_travel_as_a_file_that_the_wire_can_read(
    double: Double, reporter: Reporter, run: Run, folder: WorkFolder
) -> None:
    """A report has a bound on its size, the number of classes has none."""
    drawn = Curves(("A", "B"), np.stack([np.full((3, 101), 0.5), np.full((3, 101), -1.0)], axis=1))
    numbers = {name: {"AP50": 0.5, "AP75": 0.5, "AR100": 0.5} for name in ("A", "B")}
    evaluated = evaluation(curves=drawn, class_metrics=numbers)
    reporter.on_evaluation(run, evaluated)
    reporter.on_file(run, write_curves(folder.run / "curves", evaluated))
    reporter.close(60)
    (report,) = double.evaluations
    assert "curves" not in report
    assert report["class_metrics"] == numbers
    ((name, query, body),) = double.uploads
    assert (name, query) == (curves_artifact("student", 5), {"kind": "curves", "step": "5"})
    found = wire.Curves.model_validate_json(body)
    assert (found.model, found.step, found.epoch, len(found.recall)) == ("student", 5, 0.5, 101)
    assert found.mean == found.classes["A"] == dict.fromkeys(("0.50", "0.75", "0.50:0.95"), [0.5] * 101)
    assert found.classes["B"] is None


def test_a_checkpoint_comes_behind_the_reports_before_it(
    double: Double, reporter: Reporter, run: Run, folder: WorkFolder, until: Until
) -> None:
    """Killed right after the checkpoint is published, the attempt leaves no hole that a resume would never fill."""
    double.always["metrics"] = double.always["evaluations"] = Fault(status=503)
    reporter.on_evaluation(run, evaluation())
    reporter.on_log(run, {"loss": 1.0})
    reporter.on_file(run, checkpoint(folder))  # the training does not wait: nothing is taken yet
    until(lambda: double.seen("evaluations"))
    del double.always["evaluations"]
    until(lambda: double.seen("metrics"))
    time.sleep(0.5)
    assert not double.seen("artifacts")
    reporter.on_log(run, {"loss": 2.0})  # later than the checkpoint: it need not wait for this one
    del double.always["metrics"]
    until(lambda: double.uploads)
    assert (double.points[0]["key"], double.points[0]["value"]) == ("loss", 1.0)
    assert [report["step"] for report in double.evaluations] == [5]
    reporter.close(60)
    assert double.uploads[0][0] == CHECKPOINT


def test_a_file_that_the_disk_changes_on_its_way_is_refused(
    double: Double, reporter: Reporter, run: Run, folder: WorkFolder
) -> None:
    """The core says which bytes it has written: no others are ever published."""
    file = written(folder, "best.safetensors", "weights")
    file.path.write_text("bust.safetensors")
    reporter.on_file(run, file)
    with pytest.raises(Refused, match="the bytes are not those of the digest"):
        reporter.close(60)
    assert not double.uploads


def test_a_checkpoint_whose_reports_stay_undelivered_is_never_sent(
    double: Double, reporter: Reporter, run: Run, folder: WorkFolder
) -> None:
    double.always["metrics"] = Fault(status=503)
    reporter.on_log(run, {"loss": 1.0})
    reporter.on_file(run, checkpoint(folder))
    with pytest.raises(Undelivered, match="metrics"):
        reporter.close(0.5)
    assert not double.seen("artifacts")


def test_a_run_whose_files_nobody_takes_ends_early(
    double: Double, reporter: Reporter, run: Run, folder: WorkFolder, until: Until
) -> None:
    double.always["artifacts"] = Fault(status=413, body={"title": "too large", "status": 413})
    reporter.on_log(run, {"loss": 1.0})
    reporter.on_file(run, written(folder, "best.safetensors", "weights"))
    until(lambda: reporter._uploads.error)
    with pytest.raises(Refused, match="too large"):
        reporter.on_log(run, {"loss": 1.0})
    with pytest.raises(Refused, match="too large"):
        reporter.close(60)
