from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from client import demo
from client.demo import DemoFailed, Row
from tests.support.api_server import Service
from tests.support.evaluations import EVALUATION
from tests.support.waiting import until
from wire.reports import CocoMetrics

WEIGHTS = b"weights" * 1000


def test_gain_and_gap_are_told() -> None:
    assert demo.gain(0.30, 0.10, 0.15) == (
        "CrossKD: +5.0 AP points over the student alone: 25 % of the gap to the teacher closed."
    )
    assert "-5.0 AP points" in demo.gain(0.30, 0.10, 0.05)
    assert "-25 % of the gap" in demo.gain(0.30, 0.10, 0.05)
    assert "no gap to close" in demo.gain(0.10, 0.10, 0.15)


def test_the_table_has_a_line_for_each_student() -> None:
    metrics = CocoMetrics(**EVALUATION["metrics"])
    console = Console(file=io.StringIO(), width=120)
    console.print(demo.table([Row("teacher", metrics, 1_234_567, 4.938, 3.21), Row("student", metrics, 1, 0.0, None)]))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["AP", "AP50", "AP75", "APs", "APm", "APl", "parameters", "MB", "ms/image"]
    assert lines[1].split() == ["teacher", *["0.250"] * 5, "-", "1,234,567", "4.94", "3.2"]
    assert lines[2].split() == ["student", *["0.250"] * 5, "-", "1", "0.00"]


def test_the_demos_sweep_is_valid(service: Service) -> None:
    with service.client() as client:
        plan = client.sweeps.dry_run(demo.order(client, service.spec["data"]))
    assert [(job.role, job.arm, job.kind, job.seed) for job in plan.jobs] == [
        ("teacher", None, "train", 0), ("arm", demo.STUDENT, "train", 0), ("arm", demo.CROSSKD, "distill", 0),
    ]  # fmt: skip
    assert plan.baseline == demo.STUDENT


def test_another_ap_than_the_services_fails_the_demo(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), width=300)
    with service.client() as client:
        job = client.jobs.get(service.succeeded("proved", WEIGHTS))
        monkeypatch.setattr(demo, "evaluate_afresh", lambda weights, spec: 0.25)
        demo.verify_download(client, job, 0.25, tmp_path / "student.safetensors", console)
        monkeypatch.setattr(demo, "evaluate_afresh", lambda weights, spec: 0.2501)
        with pytest.raises(DemoFailed, match="not the same"):
            demo.verify_download(client, job, 0.25, tmp_path / "student.safetensors", console)
    assert isinstance(console.file, io.StringIO)
    assert "AP 0.250100; the service said 0.250000" in console.file.getvalue()


def test_weights_that_cannot_be_evaluated_fail_the_demo(service: Service, tmp_path: Path) -> None:
    weights = tmp_path / "student.safetensors"
    weights.write_bytes(WEIGHTS)
    with pytest.raises(DemoFailed, match="ended with status 1"):
        demo.evaluate_afresh(weights, service.spec)


def test_a_failed_job_fails_the_demo_with_its_reason(service: Service) -> None:
    name = "fails in the demo"

    def fail_it() -> None:
        with service.client() as client:
            until(lambda: any(sweep.name == name for sweep in client.sweeps.list()))
            sweep = next(sweep for sweep in client.sweeps.list() if sweep.name == name)
            (child,) = client.sweeps.get(sweep.id).children
        service.claimed(child.job).finish("failed", failure={"failure_class": "diverged", "message": "loss is NaN"})

    worker = threading.Thread(target=fail_it)
    worker.start()
    order = {"name": name, "base": service.spec, "arms": {"alone": {}}}
    with service.client() as client, pytest.raises(DemoFailed, match=r"failed \(diverged\): loss is NaN"):
        demo.train(client, order, Console(file=io.StringIO(), width=200))
    worker.join()


def test_data_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DemoFailed, match="Cannot write"):
        demo.write_data(tmp_path / "file" / "data")
