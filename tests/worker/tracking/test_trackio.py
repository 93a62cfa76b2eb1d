"""Trackio in an environment of its own, since it wants other versions than ours: its own storage reads it back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.tracking import AT, follower, prepared, tell
from tests.support.worker_stack import ROOT

pytestmark = pytest.mark.slow  # it needs that environment
PYTHON = ROOT / ".venv" / "trackio" / "bin" / "python"
READ = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage as storage
logs = storage.get_logs("mine", run_id=sys.argv[1])
config = storage.get_run_config("mine", run_id=sys.argv[1], run=None)
print(json.dumps({"logs": logs, "config": config}))
"""


def read(home: Path, job: str) -> Any:
    environment = {**os.environ, "TRACKIO_DIR": str(home / "trackio")}
    answer = subprocess.run([PYTHON, "-c", READ, job], env=environment, capture_output=True, check=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def test_a_run_over_two_attempts(tmp_path: Path) -> None:
    assert PYTHON.exists(), "there is no Trackio; `make .venv/trackio/.installed` installs it"
    second = (2, range(150, 160), float("nan"))
    attempts = ((1, range(1, 150), 0.5), second, second)  # what is told again is there once
    for number, (attempt, steps, loss) in enumerate(attempts):
        folder = prepared(tmp_path / f"tracking-{number}", job="job-1", attempt=attempt)
        tell(folder, steps, links=("best.safetensors",), loss=loss)
        folder.end("succeeded")
        with follower(folder, "trackio", python=str(PYTHON), CROSSKD_TRACKIO_PROJECT="mine") as process:
            assert process.wait(120) == 0, folder.output("trackio").read_text()
        state = folder.state("trackio")
        assert (state.delivered, state.finished) == (2 * len(steps), True)
        assert state.where == str(tmp_path / "trackio")
    found = read(tmp_path, "job-1")
    assert [(each["step"], each["student/AP"]) for each in found["logs"]] == [(n, n / 100) for n in range(1, 160)]
    assert {each["timestamp"] for each in found["logs"]} == {AT.isoformat()}
    assert found["logs"][0]["loss"] == 0.5
    assert found["config"]["job"] == "http://127.0.0.1:1/jobs/job-1"
    assert found["config"]["student"]["backbone"]["name"] == "resnet_tiny"
