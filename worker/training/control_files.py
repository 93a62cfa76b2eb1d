"""What the supervisor asks of a running training by files in its folder: a pause, or an early end as a success."""

from __future__ import annotations

import threading

from typing_extensions import override

from crosskd.engine.callbacks import Callback, Run
from worker.folder import WorkFolder

POLL_SECONDS = 0.2


class ControlFiles(Callback):
    """Looks into the folder while a run is on, and passes on to it what is asked.

    Of several ranks the main one looks: the loop makes them end together.
    """

    def __init__(self, folder: WorkFolder) -> None:
        self._folder = folder
        self._done = threading.Event()

    @override
    def on_start(self, run: Run) -> None:
        threading.Thread(target=self._watch, args=(run,), name="control-files", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._done.set()

    def _watch(self, run: Run) -> None:
        while True:
            if self._folder.is_requested("stop"):
                run.request_finish()
            if self._folder.is_requested("pause"):
                run.request_stop()
            if self._done.wait(POLL_SECONDS):
                return
