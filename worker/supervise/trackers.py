"""The processes of a job's trackers as the supervisor sees them: started, given time after the end, ended."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from crosskd.spec.tracking import TRACKERS, TrackerName
from wire.logs import LINE_CHARACTERS, Level, LogBatch, LogLine
from wire.reports import Claim
from worker.deliver.client import AttemptClient
from worker.deliver.retry import ApiError, Retry
from worker.deliver.spool import Record
from worker.folder import WorkFolder
from worker.settings import Settings
from worker.supervise.lease import Control
from worker.supervise.process import WITHHELD
from worker.tracking.files import Ended, Job, TrackingFolder
from worker.tracking.usable import why_not

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
HURRIED_SECONDS = 3.0  # after the end of a training that was cancelled, or whose worker is being shut down
LOG_PATIENCE = 10.0  # seconds for an API that is away: the lines are also in the worker's log
LAST_SEQUENCE = 2**31 - 1  # of the attempt's log: behind whatever the training has sent


def wanted(claim: Claim, settings: Settings) -> list[TrackerName]:
    """The trackers of the job: those of its spec, else the worker's. What a spec says wrongly, the training refuses."""
    if claim.kind not in ("train", "distill"):
        return []
    named: Any = claim.spec.get("track")
    if named is None:
        return settings.tracker_names
    return [name for name in TRACKERS if name in named] if isinstance(named, list) else []


class Trackers:
    """The trackers of one attempt, each a process of its own.

    `notes`: which of them cannot be used here, in words.
    """

    def __init__(self, claim: Claim, settings: Settings, control: Control) -> None:
        self._claim = claim
        self._settings = settings
        self._control = control
        self._files: TrackingFolder | None = None
        self._processes: dict[TrackerName, subprocess.Popen[bytes]] = {}
        reasons = {name: why_not(name, settings) for name in wanted(claim, settings)}
        self._usable = [name for name, reason in reasons.items() if not reason]
        self.notes = [f"the job is not shown in {name}: {reason}" for name, reason in reasons.items() if reason]

    def start(self, folder: WorkFolder) -> bool:
        """Start them; false: there is none. One that cannot be started is missed, and nothing else."""
        if not self._usable:
            return False
        address = str(self._settings.tracker_links or self._settings.api_url).rstrip("/")
        job = Job(
            job=self._claim.job,
            kind=self._claim.kind,
            attempt=self._claim.fencing_token,
            resume_step=self._claim.resume_step,
            spec=self._claim.spec,
            url=f"{address}/jobs/{self._claim.job}",
            home=self._settings.home,
        )
        try:
            self._files = TrackingFolder(folder.tracking)
            self._files.create(job)
            for name in self._usable:
                self._processes[name] = self._started(name, self._files)
        except OSError:
            logger.exception("job %s: its trackers could not be started", job.job)
        return bool(self._processes)

    def _started(self, name: TrackerName, files: TrackingFolder) -> subprocess.Popen[bytes]:
        with files.output(name).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "worker.tracking", str(files.path), name],
                stdin=subprocess.PIPE,  # never written: its end tells the tracker that we are gone
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={variable: value for variable, value in os.environ.items() if variable not in WITHHELD}
                | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )

    def end(self, outcome: Ended) -> list[LogLine]:
        """Give them their time for what is left, end them, and say what became of each."""
        if self._files is None or not self._processes:
            return []
        try:
            self._files.end(outcome)
            self._wait()
            self.kill()
            return [self._line(name, self._files) for name in self._processes]
        except OSError as exc:  # the disk: no reason for the job to end otherwise
            return [_line("warning", f"what the trackers have taken is not known: {exc}")]

    def _wait(self) -> None:
        began = time.monotonic()
        while any(process.poll() is None for process in self._processes.values()):
            hurry = self._control.hurry or self._control.stale
            limit = min(HURRIED_SECONDS, self._settings.tracker_seconds) if hurry else self._settings.tracker_seconds
            if time.monotonic() - began >= limit:
                return
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """SIGKILL to all of them and what they have started."""
        for process in self._processes.values():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _line(self, name: TrackerName, files: TrackingFolder) -> LogLine:
        state, total = files.state(name), files.points()
        where = f" ({state.where})" if state.where else ""
        if state.finished and state.delivered == total:
            return _line("info", f"tracker {name}: all {total} points are there{where}")
        why = state.error or ("" if state.finished else self._silence(name))
        missing = f"{total - state.delivered} of {total} points were not delivered{where}"
        if state.delivered == total:  # to the client of the tracker, which may have more to send
            missing = f"all {total} points were handed over{where}, and the end of it was not taken"
        return _line("warning", f"tracker {name}: {missing}" + (f": {why}" if why else ""))

    def _silence(self, name: TrackerName) -> str:
        """Why a tracker that told of no error has not come to its end; it is not running any more."""
        status = self._processes[name].returncode
        if status == -signal.SIGKILL:
            return "it was still at it when its time was over, or it was killed"
        return f"its process ended with status {status}"


def tell(api: AttemptClient, lines: list[LogLine]) -> None:
    """Put the lines at the end of the job's log, and of the worker's. Not to be able to is no fault of the job."""
    if not lines:
        return
    for line in lines:
        logger.log(logging.INFO if line.level == "info" else logging.WARNING, "%s", line.text)
    try:
        api.report(Record.of(LogBatch(sequence=LAST_SEQUENCE, lines=lines)), Retry(patience=LOG_PATIENCE))
    except ApiError as exc:
        logger.warning("the job's log lacks what became of its trackers: %s", exc)


def _line(level: Level, text: str) -> LogLine:
    return LogLine(at=datetime.now(UTC), level=level, text=text.replace("\0", "")[:LINE_CHARACTERS])
