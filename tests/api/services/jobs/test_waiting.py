"""What cannot run, as far as the known workers tell, is said at submission; and why a job still waits is said later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.settings import Settings
from tests.support.worker_calls import WORKER, Worker
from wire.tasks import queues

DETR = {"student": {"detector": "rt_detr", "backbone": {"name": "resnet18", "init": "random"}}, "export": None}
HGNET = {"student__backbone": {"name": "hgnet_v2_b0"}}
TIMM = {"student__backbone": {"name": "timm/resnet18"}}


def register(client: TestClient, name: str, device: str = "cpu", **versions: str) -> None:
    body = {"worker": name, "device": device, "versions": versions}
    assert client.post("/worker/register", json=body, headers=WORKER).status_code == 204


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(max_running_per_owner=1)


def test_a_worker_that_registers_is_known_before_it_has_a_job(client: TestClient) -> None:
    register(client, "w1", "0,1", timm="1.0")
    (found,) = client.get("/workers").json()["items"]
    assert (found["name"], found["device"], found["versions"], found["attempt"]) == ("w1", "0,1", {"timm": "1.0"}, None)
    assert client.post("/worker/register", json={"worker": "w1"}).status_code == 401


@pytest.mark.parametrize(
    ("workers", "changes", "said"),
    [
        ([], {"device": "auto"}, "no worker has been heard of within 7 days; the job waits"),
        ([("w1", "cpu", {})], {}, ""),
        ([("w1", "cpu", {})], {"device": "cuda"}, "no worker with a GPU has been heard of within 7 days (known are"),
        ([("w1", "0", {})], {"device": "cpu"}, "no worker on the CPU has been heard of"),
        ([("w1", "0", {})], {"device": "cuda"}, ""),
        ([("w1", "0", {})], {"device": "cuda", "gpus": 2}, "no worker with 2 GPUs has been heard of"),
        ([("w1", "0,1,2", {})], {"device": "cuda", "gpus": 2}, ""),
        ([("w1", "cpu", {})], TIMM, "needs the package timm, and no worker that could take the job has reported it"),
        ([("w1", "cpu", {"timm": "1"}), ("w2", "cpu", {})], TIMM, "1 of 2 workers have not reported it (w2)"),
        ([("w1", "cpu", {"timm": "1"}), ("w2", "0", {})], TIMM | {"device": "cpu"}, ""),
        ([("w1", "cpu", {})], DETR, "rt_detr needs the package transformers"),
        ([("w1", "cpu", {"transformers": "5"})], DETR, ""),
        ([("w1", "cpu", {})], HGNET, "hgnet_v2_b0 needs the package transformers"),
    ],
)
def test_what_no_known_worker_could_run_is_said_at_submission(
    client: TestClient, resolve: Any, workers: list[Any], changes: dict[str, Any], said: str
) -> None:
    for name, device, versions in workers:
        register(client, name, device, **versions)
    answer = resolve(**changes)
    assert answer.status_code == 200, answer.text
    notes = answer.json()["notes"]
    assert len(notes) == bool(said)
    assert said in "".join(notes)


@pytest.mark.parametrize(
    ("trackers", "said"),
    [
        ([["mlflow"], ["mlflow", "tensorboard"]], ""),
        ([[], ["tensorboard"]], "shown in mlflow: no worker that could take the job has the package"),
        ([["mlflow"], []], "shown in mlflow: not every worker has the package and the settings for it (lacking: w1)"),
        ([None, ["mlflow"]], ""),  # an older worker, which does not tell
    ],
)
def test_a_tracker_that_workers_lack_is_said_at_submission(
    client: TestClient, resolve: Any, trackers: list[Any], said: str
) -> None:
    for number, names in enumerate(trackers):
        body = {"worker": f"w{number}", "device": "cpu", "machine": {} if names is None else {"trackers": names}}
        assert client.post("/worker/register", json=body, headers=WORKER).status_code == 204
    assert {tuple(each["machine"]["trackers"] or ()) for each in client.get("/workers").json()["items"]} == {
        tuple(names or ()) for names in trackers
    }
    notes = resolve(track=["mlflow"]).json()["notes"]
    assert len(notes) == bool(said)
    assert said in "".join(notes)
    assert resolve(track=[]).json()["notes"] == []
    for wrong, where in (["mlflow", "mlflow"], "/spec/track"), (["os.path"], "/spec/track/0"):
        answer = resolve(track=wrong)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, where)


def test_a_job_says_what_it_waits_for(client: TestClient, post_job: Any, worker: Worker) -> None:
    first, second, third = (post_job() for _ in range(3))

    def waiting(job: str) -> Any:
        return client.get(f"/jobs/{job}").json()["waiting"]

    assert waiting(first) == "no worker on the CPU has been heard of within 7 days"
    assert waiting(third) == "no worker on the CPU has been heard of within 7 days; 2 jobs come first in its queue"
    register(client, "w1")
    assert waiting(first).startswith("it is next; worker w1 could take it, and was last heard of at 20")
    assert waiting(second) == "1 job comes first in its queue"
    worker.claim(first, "w1")
    assert waiting(first) is None
    held = "1 jobs of local run, and 1 may: it is dispatched when one of them has ended"
    assert waiting(second) == f"{held}; the one worker that could take it, w1, is at work"


@pytest.mark.parametrize(
    ("devices", "expected"), [("cpu", ["cpu", "any"]), ("0", ["gpu", "any"]), ("0,1", ["gpu-2", "gpu", "any"])]
)
def test_queues_of_a_device_set(devices: str, expected: list[str]) -> None:
    assert queues(devices) == expected
