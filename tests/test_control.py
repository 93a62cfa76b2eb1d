"""Cancel, stop, pause, resume, retry and delete on the whole service, with real processes and real trainings."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from client.errors import ApiProblem
from crosskd.engine.checkpoint import list_checkpoints
from tests.support.processes import command_of, pending, processes_of, stopped
from tests.support.service import PATIENCE, Service, assert_whole, training_of
from wire.jobs import FINAL, Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GRACE = 60.0  # seconds, in which a busy machine still uploads a checkpoint
STEPS = 80
EPOCHS = STEPS // 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.running(tmp_path_factory.mktemp("home"), CROSSKD_GRACE_SECONDS=str(GRACE)) as service:
        yield service


@pytest.fixture(scope="module")
def whole(service: Service) -> Job:
    """A training that nobody disturbs."""
    return service.succeed(service.post("whole", epochs=EPOCHS))


@pytest.fixture(scope="module")
def cancelled(service: Service) -> Job:
    """A training that was cancelled in the middle."""
    job = service.post("cancelled", epochs=EPOCHS)
    ask(service, job, "cancel")
    return service.client.jobs.wait(job.id, interval=0.1, timeout=PATIENCE)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def held(service: Service, job: Job) -> Iterator[tuple[int, Path]]:
    """The training, stopped behind its first checkpoint, however fast it is: its process id, and its folder."""
    until(lambda: service.client.jobs.get(job.id).attempts != [])
    job = service.client.jobs.get(job.id)
    folder = service.home / "work" / job.attempts[-1].id
    until(lambda: list_checkpoints(folder / "run" / "checkpoints") != [])
    training = training_of(service, job)
    with stopped(training):
        yield training, folder


def ask(service: Service, job: Job, what: Literal["cancel", "pause", "stop"]) -> None:
    """Ask it of a running job; its training goes on when the worker has handed it over."""
    with held(service, job) as (training, folder):
        getattr(service.client.jobs, what)(job.id)
        until(lambda: pending(training, signal.SIGTERM) if what == "cancel" else (folder / what).exists())


def weights(service: Service, job: Job) -> dict[str, str]:
    """sha256 of the weights by name."""
    return {item.name: item.sha256 for item in service.client.jobs.artifacts(job.id) if item.kind == "weights"}


def steps(service: Service, job: Job) -> list[int]:
    return [row.step for row in service.client.jobs.metrics(job.id, key="loss")]


def trainings(service: Service) -> list[int]:
    return [pid for pid in processes_of(service.home) if "worker.training.run" in command_of(pid)]


def test_a_cancel_reaches_the_training_in_the_middle(service: Service, cancelled: Job) -> None:
    """That one which hangs is killed when its grace is over is shown in tests/worker/test_processes.py."""
    assert cancelled.status == "cancelled"
    last = steps(service, cancelled)[-1]
    assert last < STEPS
    checkpoints = {item.step for item in service.client.jobs.artifacts(cancelled.id) if item.kind == "checkpoint"}
    assert last in checkpoints  # uploaded within the grace


def test_a_stopped_job_succeeds_with_its_best(service: Service, tmp_path: Path) -> None:
    job = service.post("stopped", epochs=EPOCHS)
    ask(service, job, "stop")
    job = service.succeed(job)
    last = steps(service, job)[-1]
    assert last < STEPS
    assert job.stopped_early
    assert job.transitions[-1].reason == f"attempt 1 stopped early after step {last}: on request"
    (evaluation,) = service.client.jobs.evaluations(job.id)
    assert (evaluation.step, evaluation.best, evaluation.metrics.AP) == (last, True, job.best_ap)
    assert service.client.jobs.weights(job.id, tmp_path / "best").stat().st_size > 1000
    assert service.client.jobs.stop(job.id).status == "succeeded"


def test_a_paused_job_frees_the_device_and_goes_on_to_the_same_bits(service: Service, whole: Job) -> None:
    job = service.post("paused", epochs=EPOCHS)
    ask(service, job, "pause")
    until(lambda: service.client.jobs.get(job.id).status == "paused")
    assert trainings(service) == []
    last = steps(service, job)[-1]
    assert last in {item.step for item in service.client.jobs.artifacts(job.id) if item.kind == "checkpoint"}
    between = service.succeed(service.post("between", epochs=1))  # the worker has time for others
    assert service.client.jobs.get(job.id).status == "paused"

    service.client.jobs.resume(job.id)
    job = service.succeed(job)
    assert [change.to_status for change in job.transitions] == [
        "queued", "running", "paused", "queued", "running", "succeeded",
    ]  # fmt: skip
    assert job.attempts[1].resumed_from_step == last < STEPS
    assert_whole(service, job)
    assert weights(service, job) == weights(service, whole) != weights(service, between)


@pytest.mark.slow
def test_a_retry_of_a_cancelled_job_ends_with_the_same_bits(service: Service, cancelled: Job, whole: Job) -> None:
    former = cancelled
    last = steps(service, former)[-1]
    again = service.succeed(service.client.jobs.retry(former.id))
    assert again.retried_from == former.id
    assert again.attempts[0].resumed_from_step == last
    assert steps(service, again) == list(range(last + 1, STEPS + 1))
    assert weights(service, again) == weights(service, whole)
    assert service.client.jobs.retry(former.id).id == again.id


def test_a_deleted_job_leaves_no_file(service: Service) -> None:
    job = service.post("deleted", epochs=EPOCHS)
    with held(service, job), pytest.raises(ApiProblem, match="is running"):
        service.client.jobs.delete(job.id)
    service.client.jobs.cancel(job.id)
    assert service.client.jobs.wait(job.id, interval=0.1, timeout=PATIENCE).status in FINAL

    def files() -> list[Path]:
        return [path for path in service.home.rglob(f"{job.id}/*") if path.is_file()]

    assert files() != []
    service.client.jobs.delete(job.id)
    service.client.jobs.delete(job.id)
    assert files() == []
    with pytest.raises(ApiProblem, match="no such job"):
        service.client.jobs.get(job.id)
