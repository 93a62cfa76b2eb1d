"""A machine that fails every attempt: it must neither empty the queue nor keep its device to itself."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from crosskd.data.demo import write_demo
from tests.support.api_double import TOKEN, Double, Fault
from tests.support.processes import alive, command_line, descendants
from tests.support.waiting import until
from tests.support.worker_stack import claim, spec
from wire.reports import Claim
from worker.deliver.client import AttemptClient, WorkerClient
from worker.folder import Outcome, WorkFolder
from worker.settings import Settings
from worker.supervise import supervisor
from worker.supervise.backoff import AT_WORK_SECONDS, Backoff
from worker.supervise.former_attempts import FormerAttempts
from worker.supervise.lease import Control
from worker.supervise.shutdown import ShutdownNotice
from worker.supervise.supervisor import Supervisor, run_job


@pytest.fixture
def settings(double: Double, tmp_path: Path) -> Settings:
    return Settings(api_url=double.url, worker_token=TOKEN, home=tmp_path, devices="cpu", data_roots=[tmp_path])


def test_it_waits_longer_after_each_failure_but_the_first() -> None:
    backoff, waits = Backoff(first=5, longest=30), []
    for _ in range(6):
        backoff.record(machine_failed=True, seconds=1)
        waits.append(backoff.seconds)
    assert waits == [0, 5, 10, 20, 30, 30]


@pytest.mark.parametrize(("machine_failed", "seconds"), [(False, 1), (True, AT_WORK_SECONDS)])
def test_whatever_shows_that_the_machine_works_ends_it(machine_failed: bool, seconds: float) -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.record(machine_failed=True, seconds=1)
    backoff.record(machine_failed=machine_failed, seconds=seconds)
    assert backoff.seconds == 0


def test_a_machine_that_cannot_make_a_folder_stops_claiming(
    double: Double, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_backoff", Backoff(first=600, longest=600))
    settings.work.touch()  # a file where the folder was
    notice = ShutdownNotice()
    for job in ("one", "two", "three"):
        double.claims[job] = claim(job, {})
    for job in ("one", "two"):
        run_job(job, settings, notice)
    assert [end["failure"]["failure_class"] for end in double.finished] == ["infrastructure"] * 2

    third = threading.Thread(target=run_job, args=("three", settings, notice))
    third.start()
    third.join(0.5)
    assert third.is_alive()
    assert not double.seen("three")
    listening = threading.Thread(target=notice.listen)  # as the worker's end tells it
    listening.start()
    third.join(90)
    assert not third.is_alive()
    assert not double.seen("three")


def test_a_training_does_not_outlive_a_watch_that_broke_off(
    double: Double,
    http: httpx.Client,
    attempt: AttemptClient,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk refuses what the watch wants to write; the next job wants the device."""
    write_demo(tmp_path / "demo", train=8, val=2, size=64, classes=2)
    order = Claim.model_validate(claim("j", spec(tmp_path / "demo", epochs=10_000)))
    control, trainings = Control(), []

    def refuse(folder: WorkFolder, _what: str) -> None:
        trainings.extend(pid for pid in descendants(os.getpid()) if str(folder.path) in command_line(pid))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WorkFolder, "request", refuse)
    control.request("stop")
    report = Supervisor(
        order, WorkerClient(http), attempt, settings, control, FormerAttempts(settings.work, order.job)
    ).run()
    assert report.failure is not None
    assert "No space left" in report.failure.message
    assert trainings
    until(lambda: not any(map(alive, trainings)))


@pytest.mark.parametrize("refusals", [1, 2])
def test_an_end_that_the_api_refuses_is_told_as_what_it_is(
    refusals: int,
    double: Double,
    http: httpx.Client,
    attempt: AttemptClient,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem: dict[str, Any] = {"title": "Too Large", "status": 413}
    double.faults["finish"] = [Fault(status=413, body=problem) for _ in range(refusals)]
    order = Claim.model_validate(claim("j", {}))
    monkeypatch.setattr(Supervisor, "_train", lambda *_: Outcome(outcome="succeeded", result={}))
    Supervisor(order, WorkerClient(http), attempt, settings, Control(), FormerAttempts(settings.work, order.job)).run()
    told = [end["failure"]["message"] for end in double.finished]
    assert len(told) == 2 - refusals
    assert all("refused the report of its end, succeeded" in text and "Too Large" in text for text in told)
    assert list(settings.work.iterdir())  # its files are all that tells of it
