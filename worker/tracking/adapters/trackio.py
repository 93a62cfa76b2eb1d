"""Trackio: a database in a folder of the worker, which `trackio show` presents.

The points are written by Trackio's own storage, not by its `log`: that one takes no times, and tells of no failure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from worker.tracker_settings import TrackerSettings
from worker.tracking.files import Ended, Job, Points


class Trackio:
    """A run whose id is the job's: the next attempt of the job goes on in it."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._project = settings.trackio_project
        self._storage: Any = None
        self._run: dict[str, Any] = {}
        self._prefix = ""

    def start(self, job: Job) -> str:
        folder = job.home / "trackio"
        os.environ["TRACKIO_DIR"] = str(folder)  # read when the package is imported
        from trackio.sqlite_storage import SQLiteStorage

        self._storage = SQLiteStorage
        config = {"job": job.url, **job.spec}
        self._run = {"run": f"{job.kind} {job.job[:8]}", "run_id": job.job, "config": config}
        self._prefix = f"{job.job}-{job.attempt}"
        return str(folder)

    def push(self, points: Sequence[Points]) -> None:
        self._storage.bulk_log(
            project=self._project,
            metrics_list=[dict(each.values) for each in points],  # spelt, as Trackio has what is not finite
            steps=[each.step for each in points],
            timestamps=[each.at.isoformat() for each in points],
            # By these it knows what it has: a batch that is repeated is not there twice.
            log_ids=[f"{self._prefix}-{each.step}-{','.join(each.values)}" for each in points],
            **self._run,
        )

    def link(self, links: Mapping[str, str]) -> None:
        """The configuration has the job's address already, from which the files are found."""

    def finish(self, outcome: Ended) -> None:
        """A run has no end there."""
