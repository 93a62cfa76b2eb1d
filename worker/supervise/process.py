"""The training process as its supervisor sees it: started, stopped with grace, and told apart by how it ended."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Literal

from wire.jobs import Failure
from wire.secret_files import with_files
from worker.abnormal_exit import abnormal_exit, oom_kills
from worker.folder import Request, WorkFolder
from worker.settings import Settings
from worker.supervise.lease import Control
from worker.tracker_settings import variables

POLL_SECONDS = 0.1

# A training has no business at the broker, and a token of its own.
WITHHELD = with_files("CROSSKD_BROKER_URL", "CROSSKD_BROKER_PASSWORD", "CROSSKD_WORKER_TOKEN")
OF_TRACKERS = with_files(*variables())  # nor with them: it keeps records, which their own processes follow


class TrainingProcess:
    """`python -m worker.training.run FOLDER` in a session of its own: Ctrl-C at a terminal does not reach it.

    With `ranks` above 1 it is `python -m worker.training.launch FOLDER RANKS`, which starts as many of the former by
    torchrun.
    """

    def __init__(self, folder: WorkFolder, settings: Settings, attempt_token: str, ranks: int = 1) -> None:
        self._folder = folder
        self._patience = settings.outage_seconds
        self._oom_kills = oom_kills()
        command = ["worker.training.run", str(folder.path)]
        if ranks > 1:
            command = ["worker.training.launch", str(folder.path), str(ranks)]
        with folder.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,  # never written: its end tells the training that we are gone
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name not in WITHHELD + OF_TRACKERS}
                | {
                    "CUDA_VISIBLE_DEVICES": settings.visible_devices,
                    "PYTHONUNBUFFERED": "1",
                    # What trains may speak for its attempt and for nothing else; so it can be stopped for good.
                    "CROSSKD_WORKER_TOKEN": attempt_token,
                },
            )

    def watch(self, control: Control, grace: float) -> int:
        """Wait for the end and return the exit status (minus the signal's number, if one killed it). `kill` follows.

        A cancel or a shutdown is SIGTERM first, upon which the training writes and uploads a checkpoint, and SIGKILL
        after `grace` seconds. A stale attempt has no such rights. A pause, whose checkpoint must not get lost, has the
        time that the end of a training has while the API is away; a stop may train and evaluate to its end.
        """
        deadline = math.inf
        sent: set[Request | Literal["hurry"]] = set()
        while (status := self._wait(POLL_SECONDS)) is None:
            if control.stale or time.monotonic() > deadline:
                self.kill()
                continue
            if control.stop and "stop" not in sent:
                sent.add("stop")
                self._folder.request("stop")
            if control.pause and "pause" not in sent:
                sent.add("pause")
                self._folder.request("pause")
                deadline = min(deadline, time.monotonic() + self._patience)
            if control.hurry and "hurry" not in sent:
                sent.add("hurry")
                self._process.terminate()
                deadline = min(deadline, time.monotonic() + grace)
        return status

    def kill(self) -> None:
        """SIGKILL to the process and all it has started, or left behind, such as loader processes."""
        with suppress(ProcessLookupError, PermissionError):  # the latter is macOS for: only zombies are left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _wait(self, timeout: float) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def failure(self, status: int) -> Failure:
        """Why it ended without an outcome."""
        return abnormal_exit("the training process", status, self._oom_kills)
