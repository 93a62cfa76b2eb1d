"""Files in the folder become requests to the run, whenever they come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crosskd.engine.callbacks import Run
from worker.folder import WorkFolder
from worker.training.control_files import ControlFiles

Until = Callable[[Callable[[], object]], None]


@pytest.mark.parametrize("early", [True, False])
def test_what_is_asked_reaches_the_run(folder: WorkFolder, tmp_path: Path, until: Until, early: bool) -> None:
    run, requests = Run(None, tmp_path), ControlFiles(folder)
    if early:
        folder.request("stop")
    requests.on_start(run)
    folder.request("stop")
    until(lambda: run.finishing)
    assert not run.stopping
    folder.request("pause")
    until(lambda: run.stopping)
    requests.close()
