"""Where a fault is injected, and what it looks for there: a victim, and afterwards an effect."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.load import EVERY, STEPS, Load
from tests.faults.proxy import Cut
from tests.faults.stack import LEASE, WORKERS, Busy, Stack

LONGER = LEASE + 4.0  # seconds: an attempt that is not heard of for so long has been given up
MOMENT = 1.5  # seconds: long enough to be noticed, too short to cost a lease


class NothingToHit(Exception):
    """No job is at the place where this fault would hurt."""


@dataclass(frozen=True)
class Injected:
    """What was done, and whether it shows: `effect` is asked until it is true."""

    what: str
    effect: Callable[[], bool]


Fault = Callable[["InjectionContext"], Injected]


class Running(NamedTuple):
    """An attempt that is being trained and has published a checkpoint."""

    job: str
    attempt: str
    worker: str
    training: int  # process id


@dataclass
class InjectionContext:
    """Where faults are injected. `alone`: there is time to wait for the right moment, and to look at what follows."""

    stack: Stack
    load: Load
    random: random.Random
    alone: bool

    @contextmanager
    def victim(self) -> Iterator[Running]:
        """A running attempt, in mid-training and with a checkpoint; no other fault touches its worker meanwhile."""
        with ExitStack() as held:
            deadline = time.monotonic() + (120.0 if self.alone else 6.0)
            while (found := self._victim(held)) is None:
                if time.monotonic() > deadline:
                    raise NothingToHit("no training has published a checkpoint")
                time.sleep(0.05)
            yield found

    def pick(self, names: Sequence[str]) -> str:
        """One of the names, and none that another fault holds if there is another."""
        return self.random.choice([name for name in names if self.stack.free(name)] or names)

    def _victim(self, held: ExitStack) -> Running | None:
        running = self.stack.postgres.rows(
            "SELECT a.job_id, a.id, a.worker FROM attempts a JOIN jobs j ON j.id = a.job_id"
            " JOIN artifacts f ON f.attempt_id = a.id AND f.kind = 'checkpoint'"
            " WHERE a.status = 'running' AND (j.progress->>'step')::int < %(latest)s"
            " GROUP BY a.job_id, a.id, a.worker ORDER BY a.id",
            latest=STEPS - 2 * EVERY,
        )
        self.random.shuffle(running)
        for row in running:
            trainings = self.stack.trainings(row["id"])
            with suppress(Busy):
                if trainings:
                    held.enter_context(self.stack.holding(row["worker"]))
                    return Running(row["job_id"], row["id"], row["worker"], trainings[0])
        return None

    def attempt(self, attempt: str) -> dict[str, Any]:
        """An attempt's row."""
        (row,) = self.stack.postgres.rows("SELECT * FROM attempts WHERE id = %(id)s", id=attempt)
        return row

    def ended(self, attempt: str, *statuses: str) -> Callable[[], bool]:
        """Whether the attempt has ended in one of these ways."""
        return lambda: self.attempt(attempt)["status"] in statuses

    def failed(self, attempt: str, *words: str) -> Callable[[], bool]:
        """Whether the attempt has failed with a message that has one of the words in it."""

        def look() -> bool:
            row = self.attempt(attempt)
            return row["status"] == "failed" and any(word in row["failure"]["message"] for word in words)

        return look

    def survives(self, attempt: str) -> Callable[[], bool]:
        """Whether the attempt has come to its good end."""
        return self.ended(attempt, "succeeded")

    def started(self, job: str) -> Callable[[], bool]:
        """Whether anybody has claimed the job."""
        return lambda: bool(self.stack.postgres.rows("SELECT id FROM attempts WHERE job_id = %(job)s", job=job))

    def work(self, run: Running) -> Path:
        """The folder that the worker keeps for an attempt."""
        return self.stack.home / run.worker / "work" / run.attempt

    def await_message(self, job: str) -> None:
        """Until the broker has been given the message of a job. Raises `NothingToHit`."""
        query = "SELECT id FROM outbox WHERE job_id = %(job)s AND published_at IS NOT NULL"
        self.wait(lambda: self.stack.postgres.rows(query, job=job), 30.0, "the message of a job has not been sent")

    def wait(self, condition: Callable[[], object], seconds: float, otherwise: str) -> None:
        """Until the right moment has come. Raises `NothingToHit`, with what to say `otherwise`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise NothingToHit(otherwise)
            time.sleep(0.05)

    @contextmanager
    def workers_deaf(self) -> Iterator[None]:
        """Meanwhile no worker takes a message, so that messages wait at the broker."""
        with self.stack.proxy.troubled(Cut(), *(f"{name}:broker" for name in WORKERS)):
            yield

    def bounced(self, run: Running) -> Callable[[], bool]:
        """Whether the attempt was given up, another came after it, and its training was ended by the refusals."""

        def look() -> bool:
            later = self.stack.postgres.rows(
                "SELECT id FROM attempts WHERE job_id = %(job)s AND started_at > %(start)s",
                job=run.job, start=self.attempt(run.attempt)["started_at"],
            )  # fmt: skip
            return self.ended(run.attempt, "lost")() and bool(later) and not self.stack.trainings(run.attempt)

        return look
