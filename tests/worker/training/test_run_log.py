"""What the log of a training tells of its end: it is what `crosskd logs` and a failure's last lines show."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from crosskd import errors
from wire.jobs import SPECS
from wire.reports import Claim
from worker.folder import Order, WorkFolder
from worker.settings import Settings
from worker.training import run


@pytest.mark.parametrize(
    ("error", "traceback"),
    [
        (errors.ConfigError("no such class", where="/data/classes", remedy="Name it."), False),
        (errors.DataError("an image is broken"), False),
        (errors.Diverged("the loss is nan"), False),
        (MemoryError("too large"), False),
        (errors.CheckpointCorrupt("a digest differs"), True),
        (ZeroDivisionError("division by zero"), True),
    ],
)
def test_only_a_fault_of_ours_leaves_a_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    traceback: bool,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(run, "_work", fail)
    caplog.set_level(logging.INFO)
    order = Order(claim=Claim.model_construct(spec={}), supervisor=os.getpid())
    settings = Settings(api_url="http://127.0.0.1:1", worker_token="x" * 16, home=tmp_path)
    outcome = run._run(order, SPECS["train"].model_construct(), WorkFolder(tmp_path), settings, threading.Event(), [])
    assert outcome.outcome == "failed"
    assert ("Traceback" in caplog.text) == traceback
    assert str(error) in caplog.text
