"""What is done to a whole sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.api_client import bearer, problem
from tests.support.sweeps import order, train
from tests.support.worker_calls import Worker


@pytest.fixture
def sweep(client: TestClient, spec: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/sweeps", json=order(spec))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def act(client: TestClient, sweep: dict[str, Any], action: str) -> Any:
    return client.post(f"/sweeps/{sweep['id']}/{action}")


def counts(answer: Any) -> dict[str, int]:
    assert answer.status_code == 200, answer.text
    found: dict[str, int] = answer.json()["jobs"]
    return found


def test_a_sweep_is_paused_resumed_and_cancelled(client: TestClient, sweep: dict[str, Any], worker: Worker) -> None:
    train(worker, sweep["children"][0]["job"], 0.2)
    worker.claim(sweep["children"][1]["job"])
    for _ in range(2):  # an answer that got lost may be asked for again
        assert counts(act(client, sweep, "pause")) == {"succeeded": 1, "running": 1, "paused": 2}
    assert worker.post("heartbeat").json()["command"] == "pause"
    for _ in range(2):
        assert counts(act(client, sweep, "resume")) == {"succeeded": 1, "running": 1, "queued": 2}
    for _ in range(2):
        assert counts(act(client, sweep, "cancel")) == {"succeeded": 1, "running": 1, "cancelled": 2}
    assert worker.post("heartbeat").json()["command"] == "cancel"
    worker.finish("cancelled")
    assert client.get(f"/sweeps/{sweep['id']}").json()["status"] == "cancelled"


def test_what_cannot_be_done_to_any_job_is_refused(client: TestClient, sweep: dict[str, Any], worker: Worker) -> None:
    assert "no job of it can be resumed: 4 queued" in problem(act(client, sweep, "resume"), 409)
    assert "no job of it has failed or was cancelled: 4 queued" in problem(act(client, sweep, "retry"), 409)
    for child in sweep["children"]:
        train(worker, child["job"], 0.2)
    for action in ("cancel", "pause", "resume", "retry"):
        assert "4 succeeded" in problem(act(client, sweep, action), 409)
    assert client.post(f"/sweeps/{'0' * 32}/cancel").status_code == 404


def test_a_retry_takes_the_place_of_what_failed(client: TestClient, sweep: dict[str, Any], worker: Worker) -> None:
    jobs = [child["job"] for child in sweep["children"]]
    for job in jobs[:2]:
        train(worker, job, 0.2)
    worker.claim(jobs[2])
    worker.finish("failed", failure={"failure_class": "data", "message": "broken"})
    client.post(f"/jobs/{jobs[3]}/cancel")
    for _ in range(2):
        again = act(client, sweep, "retry")
        assert counts(again) == {"succeeded": 2, "queued": 2}
    children = again.json()["children"]
    assert [child["job"] for child in children[:2]] == jobs[:2]
    assert [client.get(f"/jobs/{child['job']}").json()["retried_from"] for child in children[2:]] == jobs[2:]
    assert [(child["arm"], child["seed"]) for child in children] == [
        ("alone", 1),
        ("alone", 2),
        ("faster", 1),
        ("faster", 2),
    ]

    client.post(f"/jobs/{children[3]['job']}/cancel")
    one = client.post(f"/jobs/{children[3]['job']}/retry").json()["id"]  # by its own address, too
    train(worker, one, 0.4)
    answer = client.get(f"/sweeps/{sweep['id']}").json()
    assert (answer["children"][3]["job"], answer["children"][3]["status"]) == (one, "succeeded")
    assert answer["results"][1]["difference"]["mean"] == pytest.approx(0.2)


def test_a_sweep_is_deleted_with_its_jobs(client: TestClient, sweep: dict[str, Any], worker: Worker) -> None:
    path = f"/sweeps/{sweep['id']}"
    train(worker, sweep["children"][0]["job"], 0.2)
    assert "3 jobs of the sweep have not ended" in problem(client.delete(path), 409)
    act(client, sweep, "cancel")
    assert client.delete(f"/jobs/{sweep['children'][1]['job']}").status_code == 204
    for _ in range(2):
        assert client.delete(path).status_code == 204
    for other in (f"/sweeps/{sweep['children'][0]['job']}", f"/jobs/{sweep['id']}"):
        problem(client.delete(other), 404)
    assert client.get(path).status_code == 404
    assert client.get("/jobs").json()["items"] == client.get("/sweeps").json()["items"] == []


def test_a_retry_that_is_deleted_gives_its_place_back(client: TestClient, sweep: dict[str, Any]) -> None:
    """So the next retry stands in the sweep again; and a sweep takes all of them with it."""
    first = sweep["children"][0]["job"]

    def place() -> tuple[str, str]:
        child = client.get(f"/sweeps/{sweep['id']}").json()["children"][0]
        return child["job"], child["status"]

    act(client, sweep, "cancel")
    again = client.post(f"/jobs/{first}/retry").json()["id"]
    client.post(f"/jobs/{again}/cancel")
    assert place() == (again, "cancelled")
    assert client.delete(f"/jobs/{again}").status_code == 204
    assert place() == (first, "cancelled")
    assert counts(act(client, sweep, "retry")) == {"queued": 4}
    assert client.get(f"/jobs/{place()[0]}").json()["retried_from"] == first
    act(client, sweep, "cancel")
    assert client.delete(f"/sweeps/{sweep['id']}").status_code == 204
    assert client.get("/jobs").json()["items"] == []


def test_weights_that_others_need_keep_a_sweep(
    client: TestClient, sweep: dict[str, Any], spec: dict[str, Any], worker: Worker
) -> None:
    first = sweep["children"][0]["job"]
    train(worker, first, 0.2)
    act(client, sweep, "cancel")
    learner = {"kind": "distill", "name": "d", "spec": {**spec, "teacher": {"weights": {"job": first}}}}
    user = client.post("/jobs", json=learner).json()["id"]
    assert user in problem(client.delete(f"/sweeps/{sweep['id']}"), 409)
    assert len(client.get(f"/sweeps/{sweep['id']}").json()["children"]) == 4
    assert client.get(f"/jobs/{sweep['children'][1]['job']}").status_code == 200


@pytest.fixture
def token(client: TestClient) -> Callable[..., dict[str, str]]:
    def make(owner: str, scope: str = "write") -> dict[str, str]:
        made = client.post("/tokens", json={"name": owner, "owner": owner, "scopes": [scope]})
        return bearer(made.json()["token"])

    return make


def test_sweeps_ask_for_the_scopes_that_jobs_ask_for(
    client: TestClient, sweep: dict[str, Any], spec: dict[str, Any], token: Callable[..., dict[str, str]]
) -> None:
    reader, ann = token("bob", "read"), token("ann")
    assert client.get(f"/sweeps/{sweep['id']}", headers=reader).status_code == 200
    assert client.post("/sweeps", json=order(spec), headers=reader).status_code == 403
    assert client.post(f"/sweeps/{sweep['id']}/cancel", headers=reader).status_code == 403
    assert client.delete(f"/sweeps/{sweep['id']}", headers=reader).status_code == 403
    made = client.post("/sweeps", json=order(spec), headers=ann).json()
    assert [one["id"] for one in client.get("/sweeps?owner=ann").json()["items"]] == [made["id"]]
    assert client.get(f"/jobs/{made['children'][0]['job']}").json()["owner"] == "ann"
