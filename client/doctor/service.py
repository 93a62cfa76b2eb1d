"""How a service is: reached, of this version, ready; its clock and its workers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import PurePath

from client.doctor.finding import Finding, error, ok, skipped, warning
from client.doctor.machine import GIBIBYTE, LEAST_DISK, LEAST_SHARED_MEMORY, SHARED_MEMORY
from client.errors import ApiProblem, ClientError
from client.sdk import Crosskd
from wire.workers import Worker, WorkerList

SKEW = 5.0  # seconds between two clocks from which logs and charts are hard to read
QUIET = timedelta(hours=7)  # a worker that idles speaks every six hours


def look(client: Crosskd, version: str) -> Iterator[Finding]:
    """All checks of the service; `version` is this command's own."""
    try:
        health, date = client.health_and_date()
    except ClientError as fault:
        yield error("service", fault.message, fault.remedy)
        return
    yield versions(client.base_url, health.version, version)
    yield clock(date, datetime.now(UTC))
    yield from readiness(client)
    yield from workers(client, health.version)


def versions(url: str, theirs: str, ours: str) -> Finding:
    if theirs == ours:
        return ok("service", f"{url} answers, version {theirs}")
    remedy = "Upgrade the API first, then workers and clients."
    return warning("service", f"{url} is version {theirs}, this command {ours}", remedy)


def clock(date: str | None, now: datetime) -> Finding:
    """The service's clock, by its header `Date` of whole seconds, against this machine's."""
    check = "clock"
    try:
        there = parsedate_to_datetime(date or "")
    except ValueError:
        return skipped(check, "the service's answer has no date")
    return _skew(check, (now - there).total_seconds(), "this machine's clock")


def _skew(check: str, ahead: float, whose: str) -> Finding:
    if abs(ahead) < SKEW:
        return ok(check, f"{whose} and the service's agree")
    direction = "ahead of" if ahead > 0 else "behind"
    said = f"{whose} is {abs(ahead):.0f} s {direction} the service's"
    return warning(check, said, "Set both by NTP: times in logs and charts do not fit together.")


def readiness(client: Crosskd) -> Iterator[Finding]:
    """What the service itself tries: database, its revision, broker, storage."""
    try:
        for part in client.ready().checks:
            yield ok(part, "works")
    except ApiProblem as answer:
        for fault in answer.problem.errors:
            yield error(fault.pointer, fault.detail, fault.remedy)
        if not answer.problem.errors:
            yield error("readiness", answer.message, answer.remedy)


def workers(client: Crosskd, version: str) -> Iterator[Finding]:
    """Whether somebody is there to compute, and sees the same files as the API."""
    try:
        listed = client.workers.list()
    except ApiProblem as answer:
        yield error("workers", answer.message, answer.remedy or "Set CROSSKD_TOKEN to a token with the scope read.")
        return
    if not listed.items:
        yield error("workers", "no worker was heard of within a week", "Start one: docs/scaling.md says how.")
    for worker in listed.items:
        yield from _worker(worker, listed, version)


def _worker(worker: Worker, listed: WorkerList, version: str) -> Iterator[Finding]:
    check = f"worker {worker.name} ({worker.device})"
    faults = list(_faults(check, worker, listed, version))
    yield from faults
    if not faults:
        yield ok(check, f"last heard of at {worker.last_seen:%Y-%m-%d %H:%M} UTC")


def _faults(check: str, worker: Worker, listed: WorkerList, version: str) -> Iterator[Finding]:
    if datetime.now(UTC) - worker.last_seen > QUIET:
        said = f"not heard of since {worker.last_seen:%Y-%m-%d %H:%M} UTC"
        yield warning(check, said, "Look whether it runs, and reaches the API.")
        return
    own = worker.versions.get("crosskd")
    if own not in (None, version):
        yield warning(check, f"version {own}, the API's is {version}", "Upgrade the API first, then the workers.")
    machine = worker.machine
    if machine is None:
        return
    own_roots = [PurePath(root) for root in machine.data_roots]  # one above the API's will do
    lacking = [
        root for root in listed.data_roots if not any(PurePath(root).is_relative_to(above) for above in own_roots)
    ]
    if lacking:
        said = f"it cannot list {', '.join(lacking)}, where specs may name files"
        remedy = "Mount it there under the same name, and name it in the worker's CROSSKD_DATA_ROOTS."
        yield error(check, said, remedy)
    if machine.free_bytes is not None and machine.free_bytes < LEAST_DISK:
        said = f"{machine.free_bytes / GIBIBYTE:.1f} GiB were free on the disk of its home"
        yield error(check, said, "Free some, or move its CROSSKD_HOME.")
    if machine.shared_memory_bytes is not None and machine.shared_memory_bytes < LEAST_SHARED_MEMORY:
        said = f"{SHARED_MEMORY} has {machine.shared_memory_bytes / GIBIBYTE:.2f} GiB"
        yield warning(check, said, "Run its container with `--shm-size 2g`, or set `loader.workers: 0` in specs.")
    if machine.clock_ahead_seconds is not None and abs(machine.clock_ahead_seconds) >= SKEW:
        yield _skew(check, machine.clock_ahead_seconds, "its clock")
