"""Disks that fill, and disks that change what was written to them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.injection_context import LONGER, Injected, InjectionContext, NothingToHit
from tests.faults.load import CHECKPOINT_BYTES
from tests.faults.proxy import Delay
from tests.faults.stack import APIS


def full_api_disk(context: InjectionContext) -> Injected:
    """The APIs' disk takes no checkpoint any more, then it does again: uploads are refused by 507 and repeated."""
    with context.stack.holding(*APIS), context.victim() as run:
        output = context.work(run) / "output.txt"
        refused = False
        with context.stack.small_files([context.stack.pid(name) for name in APIS], CHECKPOINT_BYTES):
            deadline = time.monotonic() + LONGER
            while not refused and time.monotonic() < deadline:
                with suppress(OSError):
                    refused = "answered 507" in output.read_text()
                time.sleep(0.1)
            time.sleep(0.5)
        survives = context.survives(run.attempt)
        return Injected("the APIs' disk", lambda: refused and survives())


def full_worker_disk(context: InjectionContext) -> Injected:
    """The worker's disk takes no checkpoint any more: the attempt fails, another one goes on."""
    with context.victim() as run:
        with context.stack.small_files([run.training], CHECKPOINT_BYTES):
            deadline = time.monotonic() + LONGER
            while context.attempt(run.attempt)["status"] == "running" and time.monotonic() < deadline:
                time.sleep(0.1)
        return Injected(f"the disk of {run.worker}", context.failed(run.attempt, "File too large", "checkpoint"))


def damage_published_checkpoint(context: InjectionContext) -> Injected:
    """Bytes of a published checkpoint flip, then its training is killed: the next attempt must notice."""
    with context.victim() as run:
        wake = context.stack.freeze([run.training])  # no newer checkpoint comes
        try:
            newest = _newest_checkpoint(context, run.job)
            noticed = False
            with _flipped(context.stack.artifacts / newest):
                os.kill(run.training, signal.SIGKILL)
                deadline = time.monotonic() + (30.0 if context.alone else 2 * LONGER)
                while not noticed and time.monotonic() < deadline:
                    time.sleep(0.05)
                    noticed = _refused_to_resume(context, run.job)
        finally:
            wake()
        return Injected(newest, lambda: noticed)


def _newest_checkpoint(context: InjectionContext, job: str) -> str:
    """The path of a job's newest checkpoint, once it stays: the API may still take one whose bytes it has already."""
    before, newest = "", _path_of_newest(context, job)
    while newest != before:
        time.sleep(0.5)
        before, newest = newest, _path_of_newest(context, job)
    return newest


def _path_of_newest(context: InjectionContext, job: str) -> str:
    (row,) = context.stack.postgres.rows(
        "SELECT path FROM artifacts WHERE job_id = %(job)s AND kind = 'checkpoint' ORDER BY step DESC LIMIT 1",
        job=job,
    )
    return str(row["path"])


def _refused_to_resume(context: InjectionContext, job: str) -> bool:
    found = context.stack.postgres.rows("SELECT failure FROM attempts WHERE job_id = %(job)s AND status = 'failed'",
                                      job=job)  # fmt: skip
    return any("sha256" in row["failure"]["message"] for row in found)


def damage_downloaded_checkpoint(context: InjectionContext) -> Injected:
    """Bytes of a checkpoint flip on the worker's disk, after it was downloaded and before the training reads it."""
    with context.victim() as run:
        os.kill(run.training, signal.SIGKILL)
        context.wait(context.ended(run.attempt, "failed"), 2 * LONGER, "the end of the training has not been told")
    deadline = time.monotonic() + (30.0 if context.alone else LONGER)
    while time.monotonic() < deadline:
        rows = context.stack.postgres.rows(
            "SELECT id, worker FROM attempts WHERE job_id = %(job)s AND status = 'running'",
            job=run.job,
        )
        for row in rows:
            resume = context.stack.home / row["worker"] / "work" / row["id"] / "resume.pt"
            if resume.exists():  # it gets this name when its digest was found right
                flip(resume)
                return Injected(f"{row['worker']}: resume.pt of {row['id']}", context.failed(row["id"], "sha256"))
        time.sleep(0.01)
    raise NothingToHit("nobody has downloaded the checkpoint")


def damage_waiting_checkpoint(context: InjectionContext) -> Injected:
    """Bytes of checkpoints flip on the worker's disk while they wait for their upload: none may be published."""
    with context.victim() as run:
        flipped: set[int] = set()
        deadline = time.monotonic() + 2 * LONGER
        with context.stack.proxy.troubled(Delay(0.03), f"{run.worker}:api"):  # so that they do wait
            while context.attempt(run.attempt)["status"] == "running" and time.monotonic() < deadline:
                for path in (context.work(run) / "staging").glob("*-checkpoint-*.pt"):
                    with suppress(FileNotFoundError):  # a newer one has just taken its place
                        if (number := path.stat().st_ino) not in flipped:
                            flip(path)
                            flipped.add(number)
                time.sleep(0.02)
        if not flipped:
            raise NothingToHit("no checkpoint waited for its upload")
        # The worker looks at the file itself when the API refuses it.
        refused = context.failed(run.attempt, "has changed since it was written")
        return Injected(f"{len(flipped)} checkpoints of {run.attempt} on {run.worker}", refused)


def flip(path: Path) -> bytes:
    """Turn 16 bytes in the middle of a file, where the tensors are, to others. What they were."""
    with path.open("r+b") as file:
        place = path.stat().st_size // 2
        file.seek(place)
        before = file.read(16)
        file.seek(place)
        file.write(bytes(byte ^ 0xFF for byte in before))
    return before


@contextmanager
def _flipped(path: Path) -> Iterator[None]:
    """Bytes flip meanwhile. They are put back: the checker shall find what the service did, not what we did."""
    flip(path)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            flip(path)
