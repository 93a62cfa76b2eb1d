"""The audit log of a training: what the API has been told, noted before, by the training itself."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from pathlib import Path

import pytest

from crosskd.data.demo import write_demo
from tests.support.api_double import TOKEN, Double
from tests.support.worker_stack import claim, spec
from wire.reports import Claim
from worker.folder import Order, WorkFolder
from worker.settings import Settings
from worker.training.audit_log import AuditLog, Began, Ended, Evaluated, Points, Wrote, exact, read
from worker.training.run import train


@pytest.fixture
def order(tmp_path: Path) -> Order:
    write_demo(tmp_path / "data", train=8, val=2, size=64, classes=2)
    body = spec(tmp_path / "data", epochs=2, checkpoint={"every_steps": 3})
    told = {"attempt": "attempt-1", "resume": None}
    return Order(claim=Claim.model_validate(claim("job", body, **told)), supervisor=os.getpid())


def settings_of(double: Double, tmp_path: Path, **more: object) -> Settings:
    known = {"api_url": double.url, "worker_token": TOKEN, "home": tmp_path, "data_roots": [tmp_path / "data"]}
    return Settings(devices="cpu", worker_name="tester", **known, **more)  # type: ignore[arg-type]


def test_a_training_notes_what_it_reports(double: Double, folder: WorkFolder, order: Order, tmp_path: Path) -> None:
    settings = settings_of(double, tmp_path, audit_log=tmp_path / "audit" / "audit-log")
    outcome = train(order, folder, settings, threading.Event())
    assert outcome is not None
    assert outcome.outcome == "succeeded", outcome

    (path,) = (tmp_path / "audit" / "audit-log").iterdir()
    assert path.name == "attempt-1.jsonl"
    first, *records, last = read(path)
    assert isinstance(first, Began)
    assert (first.job, first.attempt, first.number, first.worker) == ("job", "attempt-1", 1, "tester")
    assert (first.pid, first.resume_step) == (os.getpid(), None)
    assert isinstance(last, Ended)
    assert (last.outcome, last.delivered) == ("succeeded", True)

    noted = [
        (record.step, key, value)
        for record in records
        if isinstance(record, Points)
        for key, value in record.values.items()
    ]
    sent = [(point["step"], point["key"], float(point["value"]).hex()) for point in double.points]
    assert sent == noted
    assert {step for step, _, _ in noted} == {1, 2, 3, 4}
    evaluations = [(record.step, record.metrics) for record in records if isinstance(record, Evaluated)]
    assert evaluations == [(report["step"], exact(report["metrics"])) for report in double.evaluations] != []
    written = {(record.name, record.sha256) for record in records if isinstance(record, Wrote)}
    uploaded = {(name, hashlib.sha256(content).hexdigest()) for name, _, content in double.uploads if name != "log.txt"}
    assert uploaded <= written  # a checkpoint that waits gives way to a newer one
    assert {"best.safetensors", "last.safetensors", "manifest.json"} <= {name for name, _ in written}
    assert [record.monotonic for record in records] == sorted(record.monotonic for record in records)


def test_without_the_setting_there_is_none(double: Double, folder: WorkFolder, order: Order, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    train(order, folder, settings_of(double, tmp_path), stop)
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_values_keep_every_bit() -> None:
    values = {"a": 0.1 + 0.2, "b": -0.0, "c": 5e-324, "d": math.nan, "e": -math.inf, "f": 3}
    back = {key: float.fromhex(value) for key, value in json.loads(json.dumps(exact(values))).items()}
    assert repr(back) == repr({**values, "f": 3.0})


def test_a_torn_line_is_left_out_and_a_second_process_shows(tmp_path: Path) -> None:
    for pid in (1, 2):
        audit_log = AuditLog(tmp_path, "a")
        audit_log.note(Began(job="j", attempt="a", number=1, worker="w", pid=pid))
        audit_log.close()
    path = tmp_path / "a.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind":"points","st')
    assert [record.pid for record in read(path) if isinstance(record, Began)] == [1, 2]


def test_an_audit_log_that_cannot_be_written_ends_the_training(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("/dev/full")
    audit_log = AuditLog(tmp_path, "a")
    with pytest.raises(OSError, match="No space left"):
        audit_log.note(Points(step=1, values={}))
    audit_log.close()
