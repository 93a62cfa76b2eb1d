"""A running stack with jobs small enough for tests: real processes on loopback, on a home of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import specs
from client.sdk import Crosskd
from client.stack.home import Home
from client.stack.stack import Stack
from crosskd.data.demo import write_demo
from tests.support.processes import command_of, processes_of
from wire.jobs import FINAL, Job

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
    "export": None,
}


@dataclass
class Service:
    """A running stack and a client of it. `restart` stops it in order and starts it again on the same home."""

    home: Path
    data: dict[str, Any]
    stack: Stack
    client: Crosskd
    environment: dict[str, str] = field(default_factory=lambda: FAST)

    @classmethod
    def start(cls, home: Path, **settings: str) -> Service:
        # Measured on what was trained on: a tiny training shall reach an AP that is not zero.
        train = write_demo(home / "data" / "tiny", train=16, val=1, size=64, classes=2).train
        split = train.model_dump(mode="json")
        environment = FAST | settings
        stack = Stack(Home(home), port=0, environment=environment)
        service = cls(home, {"train": split, "val": split}, stack, Crosskd(""), environment)
        service._open()
        return service

    @classmethod
    @contextmanager
    def running(cls, home: Path, **settings: str) -> Iterator[Service]:
        """From its start to its end, after which it has left no process."""
        service = cls.start(home, **settings)
        try:
            yield service
        finally:
            service.close()
            assert processes_of(home) == []

    def restart(self) -> None:
        self.close()
        self.stack = Stack(Home(self.home), port=0, environment=self.environment)
        self._open()

    def _open(self) -> None:
        self.stack.start()
        self.client = Crosskd(self.stack.url)
        self.client.health()

    def close(self) -> None:
        self.client.close()
        self.stack.stop()

    def post(
        self, name: str, *, epochs: int = SHORT, teacher: dict[str, str] | None = None, **sections: dict[str, Any]
    ) -> Job:
        """Post `SPEC`, with whole `sections` of it replaced; with a teacher it is a distillation."""
        base = {"spec": {**SPEC, "data": self.data, **sections}}
        body = specs.complete(base, name=name, teacher=teacher, overrides=[f"schedule.epochs={epochs}"])
        return self.client.jobs.create(body)

    def train_until(self, job: Job, step: int, attempt: int = 1) -> Job:
        """Wait until a job's training has come to `step`, in that attempt or a later one."""

        def there(now: Job) -> bool:
            return len(now.attempts) >= attempt and now.progress is not None and now.progress.step >= step

        return self._until(job, there, interval=0.1)

    def succeed(self, job: Job) -> Job:
        ended = self._until(job, lambda now: now.status in FINAL, interval=0.3)
        assert ended.status == "succeeded", ended.model_dump_json(indent=2)
        return ended

    def _until(self, job: Job, condition: Callable[[Job], bool], interval: float) -> Job:
        deadline = time.monotonic() + PATIENCE
        while not condition(now := self.client.jobs.get(job.id)):
            assert now.status not in FINAL, now.model_dump_json(indent=2)
            assert time.monotonic() < deadline, now.model_dump_json(indent=2)
            time.sleep(interval)
        return now


def training_of(service: Service, job: Job) -> int:
    """The process id of a job's training: the first of its session, not a helper that it has forked."""
    attempt = job.attempts[-1].id
    found = [pid for pid in processes_of(service.home) if attempt in command_of(pid) and os.getpgid(pid) == pid]
    assert len(found) == 1, found
    return found[0]


def assert_whole(service: Service, job: Job) -> None:
    """One metric point for every step: nothing lost, nothing told twice."""
    steps = [row.step for row in service.client.jobs.metrics(job.id, key="loss")]
    assert job.progress is not None
    assert steps == list(range(1, job.progress.total_steps + 1))
