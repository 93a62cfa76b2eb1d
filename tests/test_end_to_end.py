"""The whole service as real processes: a job's life from its posting to its weights, and what no kill may change."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api.schemas.jobs import FINAL, Job
from client import demo, specs
from client.errors import ApiProblem
from client.home import Home
from client.local import Stack
from client.sdk import Client
from crosskd.data.demo import write_demo

pytestmark = pytest.mark.timeout(600)

PATIENCE = 420.0  # seconds for one job on a machine that does other things too
FAST = {
    "CROSSKD_LEASE_SECONDS": "8",
    "CROSSKD_HEARTBEAT_SECONDS": "0.5",
    "CROSSKD_REDELIVER_SECONDS": "2",
    "CROSSKD_DEVICES": "cpu",
    "OMP_NUM_THREADS": "1",
}
SHORT, LONG = 20, 100  # epochs, of two steps each
SPEC: dict[str, Any] = {
    "student": {
        "backbone": {"name": "resnet_tiny"},
        "neck": {"channels": 32},
        "head": {"channels": 32, "depth": 2, "norm_groups": 8},
        "strides": [8, 16, 32],
    },
    "augment": {"short_edges": [64], "long_edge": 64, "flip": 0.0},
    "loader": {"workers": 0},
    "batch_size": 8,
    "optimizer": {"name": "adamw", "lr": 0.004, "base_batch": None, "weight_decay": 0.0},
    "schedule": {"epochs": SHORT, "warmup_steps": 5, "decay": "cosine"},
    "clip_norm": 10.0,
    "evaluation": {"every_epochs": 1000},
    "checkpoint": {"every_steps": 5},
    "threads": 1,
    "log_every": 1,
}


@dataclass
class Service:
    """A running stack and a client of it. `restart` stops it in order and starts it again on the same home."""

    home: Path
    data: dict[str, Any]
    stack: Stack
    client: Client

    @classmethod
    def start(cls, home: Path) -> Service:
        # Measured on what was trained on: a tiny training shall reach an AP that is not zero.
        train = write_demo(home / "data" / "tiny", train=16, val=1, size=64, classes=2).train
        split = train.model_dump(mode="json")
        service = cls(home, {"train": split, "val": split}, Stack(Home(home), port=0, environment=FAST), Client(""))
        service._open()
        return service

    def restart(self) -> None:
        self.close()
        self.stack = Stack(Home(self.home), port=0, environment=FAST)
        self._open()

    def _open(self) -> None:
        self.stack.start()
        self.client = Client(self.stack.url)
        self.client.health()

    def close(self) -> None:
        self.client.close()
        self.stack.stop()

    def post(self, name: str, *, epochs: int = SHORT, teacher: dict[str, str] | None = None) -> Job:
        base = {"spec": {**SPEC, "data": self.data}}
        body = specs.complete(base, name=name, teacher=teacher, overrides=[f"schedule.epochs={epochs}"])
        return self.client.create_job(body)

    def train_until(self, job: Job, step: int) -> Job:
        """Wait until a job's training has come to `step`."""
        return self._until(job, lambda now: now.progress is not None and now.progress.step >= step, interval=0.1)

    def succeed(self, job: Job) -> Job:
        ended = self._until(job, lambda now: now.status in FINAL, interval=0.3)
        assert ended.status == "succeeded", ended.model_dump_json(indent=2)
        return ended

    def _until(self, job: Job, condition: Callable[[Job], bool], interval: float) -> Job:
        deadline = time.monotonic() + PATIENCE
        while not condition(now := self.client.job(job.id)):
            assert now.status not in FINAL, now.model_dump_json(indent=2)
            assert time.monotonic() < deadline, now.model_dump_json(indent=2)
            time.sleep(interval)
        return now


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service.start(tmp_path_factory.mktemp("home"))
    try:
        yield service
    finally:
        service.close()
        assert processes_of(service.home) == []


@pytest.fixture(scope="module")
def teacher(service: Service) -> Job:
    return service.succeed(service.post("teacher"))


def processes_of(home: Path) -> list[int]:
    """All living processes that were told of this home."""
    needle = f"CROSSKD_HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and needle in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # it has just ended, or is another user's
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def training_of(service: Service, job: Job) -> int:
    """The process id of a job's training: the first of its session, not a helper that it has forked."""
    attempt = job.attempts[-1].id
    found = [pid for pid in processes_of(service.home) if attempt in command_of(pid) and os.getpgid(pid) == pid]
    assert len(found) == 1, found
    return found[0]


def pid_of(service: Service, name: str) -> int:
    pid = service.stack.children[name].pid
    assert pid is not None
    return pid


def assert_whole(service: Service, job: Job) -> None:
    """One metric point for every step: nothing lost, nothing told twice."""
    steps = [row.step for row in service.client.metrics(job.id, key="loss")]
    assert job.progress is not None
    assert steps == list(range(1, job.progress.total_steps + 1))


# --- the story -------------------------------------------------------------------------------------------------------


def test_a_student_is_distilled_from_a_former_jobs_weights(service: Service, teacher: Job, tmp_path: Path) -> None:
    job = service.succeed(service.post("student", teacher={"job": teacher.id, "checkpoint": "best"}))

    assert [change.to_status for change in job.transitions] == ["queued", "running", "succeeded"]
    assert job.kind == "distill"
    assert teacher.best_ap is not None
    assert job.teacher_ap == pytest.approx(teacher.best_ap, abs=1e-6)
    assert_whole(service, job)
    terms = {row.key for row in service.client.metrics(job.id)}
    assert {"loss_cls", "loss_bbox", "loss_dfl", "crosskd_cls", "crosskd_box"} <= terms
    models = [evaluation.model for evaluation in service.client.evaluations(job.id)]
    assert models == ["teacher", "student"]
    names = {artifact.name for artifact in service.client.artifacts(job.id)}
    assert {"best.safetensors", "last.safetensors", "log.txt", "manifest.json"} <= names

    weights = service.client.weights(job.id, tmp_path / "student.safetensors")
    assert job.best_ap is not None
    assert job.best_ap > 0.02  # else the next line would compare nothing with nothing
    assert demo.evaluate_afresh(weights, job.spec) == pytest.approx(job.best_ap, abs=1e-6)


def test_the_api_maps_no_torch(service: Service, teacher: Job) -> None:
    assert teacher.status == "succeeded"  # it has served a whole job by now
    maps = Path(f"/proc/{pid_of(service, 'api')}/maps").read_text()
    assert "libssl" in maps or "libpython" in maps or "/python" in maps  # the file does say what is mapped
    assert "libtorch" not in maps


def test_weights_that_do_not_exist_yet_are_explained(service: Service, teacher: Job, tmp_path: Path) -> None:
    job = service.post("cancelled", epochs=LONG)
    with pytest.raises(ApiProblem) as caught:
        service.client.weights(job.id, tmp_path / "weights")
    assert caught.value.problem.status == 404
    assert list(tmp_path.iterdir()) == []
    service.train_until(job, 1)
    service.client.cancel(job.id)
    assert service.client.wait(job.id, interval=0.2, timeout=PATIENCE).status == "cancelled"


# --- what is killed --------------------------------------------------------------------------------------------------


def test_a_killed_training_is_taken_up_from_its_checkpoint(service: Service) -> None:
    job = service.post("kill the training", epochs=LONG)
    job = service.train_until(job, 20)
    os.kill(training_of(service, job), signal.SIGKILL)
    job = service.succeed(job)
    assert len(job.attempts) == 2
    assert job.attempts[1].resumed_from_step >= 5
    assert_whole(service, job)


def test_a_killed_worker_is_replaced_and_its_job_taken_up(service: Service) -> None:
    job = service.post("kill the worker", epochs=LONG)
    service.train_until(job, 20)
    worker = pid_of(service, "worker")
    os.kill(worker, signal.SIGKILL)
    job = service.succeed(job)
    assert pid_of(service, "worker") != worker
    assert len(job.attempts) == 2
    assert job.attempts[1].resumed_from_step >= 5
    assert_whole(service, job)


def test_a_killed_api_costs_a_running_job_nothing(service: Service) -> None:
    job = service.post("kill the api", epochs=LONG)
    service.train_until(job, 20)
    api = pid_of(service, "api")
    os.kill(api, signal.SIGKILL)
    job = service.succeed(job)
    assert pid_of(service, "api") != api
    assert len(job.attempts) == 1
    assert_whole(service, job)


def test_a_broker_that_forgets_everything_loses_no_job(service: Service) -> None:
    running = service.post("kill the broker", epochs=LONG)
    service.train_until(running, 20)
    waiting = service.post("behind it")
    os.kill(pid_of(service, "valkey"), signal.SIGKILL)
    shutil.rmtree(service.home / "valkey")
    running = service.succeed(running)
    assert len(running.attempts) == 1
    assert_whole(service, running)
    assert len(service.succeed(waiting).attempts) == 1


# --- stop and start --------------------------------------------------------------------------------------------------


def test_stopped_and_started_again_it_has_forgotten_nothing(service: Service, teacher: Job) -> None:
    job = service.post("stop and start", epochs=LONG)
    service.train_until(job, 20)
    before = {item.id for item in service.client.jobs()}
    service.restart()
    assert {item.id for item in service.client.jobs()} == before
    assert service.client.job(teacher.id).best_ap == teacher.best_ap
    job = service.succeed(job)
    assert [attempt.status for attempt in job.attempts] == ["released", "succeeded"]
    assert job.attempts[1].resumed_from_step >= 20  # it wrote a checkpoint when it was asked to stop
    assert_whole(service, job)
