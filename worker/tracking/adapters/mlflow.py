"""MLflow: a run of a tracking server for each job, by its REST client (`mlflow-skinny`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from worker.tracker_settings import TrackerSettings
from worker.tracking.files import Ended, Job, Points
from worker.tracking.tracker import Refused, flat

# Read when the client is imported. It waits and repeats for minutes by itself; the follower does so without end.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # nothing goes to anybody but the server

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException

logger = logging.getLogger(__name__)

JOB_TAG, URL_TAG, ATTEMPT_TAG = "crosskd.job", "crosskd.url", "crosskd.attempt"
NOTE_TAG = "mlflow.note.content"  # the run's description, as Markdown
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # of a request: MLflow's own bounds
LONGEST_PARAM = 6000  # characters
LONGEST_KEY = 250
STATUS: dict[Ended, str] = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED", "released": "RUNNING"}
# What the server says of a request that it will never take.
_NEVER = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"})


class Mlflow:
    """A run has the tag `crosskd.job`: by it the next attempt of the job finds the run, and goes on in it."""

    def __init__(self, settings: TrackerSettings) -> None:
        values = {
            "MLFLOW_TRACKING_USERNAME": settings.mlflow_username,
            "MLFLOW_TRACKING_PASSWORD": settings.mlflow_password and settings.mlflow_password.get_secret_value(),
            "MLFLOW_TRACKING_TOKEN": settings.mlflow_token and settings.mlflow_token.get_secret_value(),
        }
        os.environ.update({name: value for name, value in values.items() if value})
        self._address = str(settings.mlflow_tracking_uri).rstrip("/")
        self._client = MlflowClient(tracking_uri=self._address)
        self._experiment = settings.mlflow_experiment
        self._run = ""
        self._url = ""

    def start(self, job: Job) -> str:
        self._url = job.url
        experiment = self._experiment_id()
        found = self._client.search_runs([experiment], f"tags.`{JOB_TAG}` = '{job.job}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            tags = {JOB_TAG: job.job, URL_TAG: job.url, NOTE_TAG: _note(job.url, {})}
            name = f"{job.kind} {job.job[:8]}"
            self._run = self._client.create_run(experiment, tags=tags, run_name=name).info.run_id
        self._client.set_tag(self._run, ATTEMPT_TAG, job.attempt)
        self._tell_params([Param(key[:LONGEST_KEY], str(value)[:LONGEST_PARAM]) for key, value in flat(job.spec)])
        return f"{self._address}/#/experiments/{experiment}/runs/{self._run}"

    def _tell_params(self, params: Sequence[Param]) -> None:
        for start in range(0, len(params), PARAMS_AT_ONCE):
            try:
                self._client.log_batch(self._run, params=params[start : start + PARAMS_AT_ONCE])
            except RestException as exc:
                if exc.error_code not in _NEVER:
                    raise
                # A run's parameters never change: one that came back otherwise, by whatever way, keeps the former.
                logger.warning("mlflow: parameters are left out: %s", exc)

    def push(self, points: Sequence[Points]) -> None:
        metrics = [
            Metric(key, float(value), int(each.at.timestamp() * 1000), each.step)
            for each in points
            for key, value in each.values.items()
        ]
        try:
            # The same metric again changes nothing there, so a batch of which the answer was lost may be repeated.
            for start in range(0, len(metrics), METRICS_AT_ONCE):
                self._client.log_batch(self._run, metrics=metrics[start : start + METRICS_AT_ONCE])
        except RestException as exc:
            if exc.error_code in _NEVER:
                raise Refused(str(exc)) from exc
            raise

    def link(self, links: Mapping[str, str]) -> None:
        tags = [RunTag(f"crosskd.files.{name}", url) for name, url in links.items()]
        self._client.log_batch(self._run, tags=[*tags, RunTag(NOTE_TAG, _note(self._url, links))])

    def finish(self, outcome: Ended) -> None:
        if outcome != "released":
            self._client.set_terminated(self._run, STATUS[outcome])

    def _experiment_id(self) -> str:
        if (found := self._client.get_experiment_by_name(self._experiment)) is None:
            try:
                return str(self._client.create_experiment(self._experiment))
            except MlflowException:  # another worker was faster
                if (found := self._client.get_experiment_by_name(self._experiment)) is None:
                    raise
        return str(found.experiment_id)


def _note(url: str, links: Mapping[str, str]) -> str:
    files = "".join(f"- [{name}]({url})\n" for name, url in sorted(links.items()))
    return f"[The job in CrossKD]({url})\n\n{files}"
