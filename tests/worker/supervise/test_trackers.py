from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import alive
from tests.support.tracking import hanging_server, tell
from tests.support.waiting import until
from tests.support.worker_stack import claim, spec
from wire.reports import Claim
from worker.folder import WorkFolder
from worker.settings import Settings
from worker.supervise import trackers
from worker.supervise.lease import Control
from worker.supervise.trackers import Trackers, wanted
from worker.tracking import usable
from worker.tracking.files import TrackingFolder


def settings_of(home: Path, **values: Any) -> Settings:
    return Settings(api_url="http://h:8000", worker_token="x" * 16, devices="cpu", home=home, **values)


def claimed(home: Path, kind: str = "train", **changes: Any) -> Claim:
    return Claim.model_validate(claim("job", spec(home, epochs=1, **changes)) | {"kind": kind})


@pytest.mark.parametrize(
    ("kind", "track", "names"),
    [
        ("train", None, ["tensorboard"]),
        ("distill", ["mlflow"], ["mlflow"]),
        ("train", [], []),
        ("train", ["tensorboard", "mlflow", "os.path"], ["mlflow", "tensorboard"]),  # the training refuses it, in words
        ("train", 3, []),
        ("evaluate", None, []),
    ],
)
def test_a_spec_goes_before_the_settings(tmp_path: Path, kind: str, track: Any, names: list[str]) -> None:
    assert wanted(claimed(tmp_path, kind, track=track), settings_of(tmp_path, trackers="tensorboard")) == names


def test_what_a_worker_lacks_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: WorkFolder) -> None:
    settings = settings_of(tmp_path)
    assert usable.usable(settings) == ["tensorboard"]
    assert usable.usable(settings_of(tmp_path, mlflow_tracking_uri="http://h")) == ["mlflow", "tensorboard"]
    assert usable.usable(settings_of(tmp_path, wandb_mode="offline")) == ["tensorboard", "wandb"]
    assert usable.usable(settings_of(tmp_path, wandb_api_key="k" * 40)) == ["tensorboard", "wandb"]
    monkeypatch.setattr(usable, "find_spec", lambda name: None if name == "tensorboard" else name)
    found = Trackers(claimed(tmp_path, track=["mlflow", "tensorboard"]), settings, Control())
    assert found.notes == [
        "the job is not shown in mlflow: the worker knows no server; set its CROSSKD_MLFLOW_TRACKING_URI",
        "the job is not shown in tensorboard: this worker has no package tensorboard; install `crosskd[tensorboard]` "
        "there",
    ]
    assert not found.start(folder)
    assert found.end("succeeded") == []
    assert not folder.tracking.exists()


@pytest.mark.parametrize("hurry", [False, True])
def test_one_that_hangs_and_one_that_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: WorkFolder, hurry: bool
) -> None:
    """Each is told of, and gone when its time is over: the supervisor goes on."""
    monkeypatch.setattr(trackers, "HURRIED_SECONDS", 0.2)
    control = Control()
    with hanging_server() as (url, _):
        monkeypatch.setenv("CROSSKD_MLFLOW_TRACKING_URI", url)
        settings = settings_of(tmp_path, mlflow_tracking_uri=url, tracker_seconds=600 if hurry else 0.2)
        found = Trackers(claimed(tmp_path, track=["mlflow", "tensorboard"]), settings, control)
        assert found.start(folder)
        files = TrackingFolder(folder.tracking)
        processes = {name: process.pid for name, process in found._processes.items()}
        try:
            until(lambda: files.state("tensorboard").where)
            os.kill(processes["tensorboard"], signal.SIGKILL)
            tell(files, range(4))
            if hurry:
                control.request("shutdown")
            began = time.monotonic()
            lines = [line.text for line in found.end("released")]
            assert time.monotonic() - began < 60
        finally:
            found.kill()
    assert not any(alive(pid) for pid in processes.values())
    where = tmp_path / "tensorboard" / "job"
    killed = "it was still at it when its time was over, or it was killed"
    assert lines == [
        f"tracker mlflow: 8 of 8 points were not delivered: {killed}",
        f"tracker tensorboard: 8 of 8 points were not delivered ({where}): {killed}",
    ]
