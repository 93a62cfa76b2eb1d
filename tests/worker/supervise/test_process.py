from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worker.folder import WorkFolder
from worker.settings import Settings
from worker.supervise import process
from worker.supervise.process import TrainingProcess


def test_a_training_is_told_nothing_of_the_broker_or_of_trackers(
    monkeypatch: pytest.MonkeyPatch, folder: WorkFolder, tmp_path: Path
) -> None:
    told: dict[str, str] = {}
    monkeypatch.setattr(process.subprocess, "Popen", lambda *_, env, **__: told.update(env))
    values: dict[str, Any] = {"api_url": "http://h", "worker_token": "x" * 16, "devices": "cpu", "home": tmp_path}
    settings = Settings(**values)
    monkeypatch.setenv("CROSSKD_BROKER_URL", "redis://h")
    for name in ("CROSSKD_BROKER_PASSWORD", "CROSSKD_BROKER_PASSWORD_FILE", "CROSSKD_WORKER_TOKEN_FILE"):
        monkeypatch.setenv(name, "secret")
    for name in ("CROSSKD_TRACKERS", "CROSSKD_MLFLOW_PASSWORD", "CROSSKD_MLFLOW_TOKEN_FILE"):
        monkeypatch.setenv(name, "secret")
    TrainingProcess(folder, settings, "attempt's own")
    assert not [name for name in told if "BROKER" in name]
    assert not [name for name in told if "MLFLOW" in name or "TRACKER" in name]
    assert told["CROSSKD_WORKER_TOKEN"] == "attempt's own"
    assert "CROSSKD_WORKER_TOKEN_FILE" not in told  # it would be a second one
