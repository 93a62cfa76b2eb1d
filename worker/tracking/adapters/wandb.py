"""Weights & Biases: a run for each job, on a server or, offline, in files that `wandb sync` sends later."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from worker.tracker_settings import TrackerSettings
from worker.tracking.files import Ended, Job, Points

os.environ["WANDB_ERROR_REPORTING"] = "false"  # nothing goes to anybody but the server; read at the import

import wandb

# Of this process and its machine nothing is told, since it is not the one that trains.
_SILENT = {
    "console": "off",
    "silent": True,
    "disable_code": True,
    "disable_git": True,
    "host": "",
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
STEP = "step"  # the axis of all metrics: W&B's own step only grows, and a resumed job repeats some


class WeightsAndBiases:
    """The run's id is the job's: the next attempt of the job goes on in it."""

    def __init__(self, settings: TrackerSettings) -> None:
        key, address = settings.wandb_api_key, settings.wandb_base_url
        if key is not None:
            os.environ["WANDB_API_KEY"] = key.get_secret_value()
        if address is not None:
            os.environ["WANDB_BASE_URL"] = str(address).rstrip("/")
        self._settings = settings
        self._run: wandb.Run | None = None

    def start(self, job: Job) -> str:
        folder = job.home / "wandb-runs"
        folder.mkdir(exist_ok=True)
        self._run = wandb.init(
            project=self._settings.wandb_project,
            entity=self._settings.wandb_entity,
            mode=self._settings.wandb_mode,
            id=job.job,
            resume="allow",
            name=f"{job.kind} {job.job[:8]}",
            config=job.spec,
            notes=job.url,
            dir=str(folder),
            settings=wandb.Settings(**_SILENT),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        self._run.summary["job"] = job.url
        return str(self._run.url or self._run.dir.removesuffix("/files"))

    def push(self, points: Sequence[Points]) -> None:
        assert self._run is not None, "it was started"
        for each in points:
            values = {key: float(value) for key, value in each.values.items()}
            self._run.log({STEP: each.step, "_timestamp": each.at.timestamp(), **values})

    def link(self, links: Mapping[str, str]) -> None:
        assert self._run is not None, "it was started"
        self._run.summary["files"] = dict(links)

    def finish(self, outcome: Ended) -> None:
        """Waits until the server has everything; offline, until the files do."""
        assert self._run is not None, "it was started"
        self._run.finish(exit_code=0 if outcome in ("succeeded", "released") else 1)
