"""The service's metrics for Prometheus, read from the database when they are asked for: replicas tell the same."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from api.database import Database, Session
from api.models import Artifact, Attempt, Job
from api.models import Worker as WorkerRow
from api.services.jobs import store
from wire.jobs import AttemptStatus, Progress, Status
from wire.tasks import queue

log = logging.getLogger(__name__)

FRESH_SECONDS = 5.0  # for so long the last reading is told again: counting a million jobs is not free
HEARD = timedelta(hours=1)  # a worker that was not heard of for so long has no figures


class DatabaseCollector(Collector):
    """Reads the database at each collection, at most once in `FRESH_SECONDS`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._kept: list[Metric] = []

    def describe(self) -> Iterable[Metric]:
        return []  # else registering it would read the database

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() - self._read_at > FRESH_SECONDS:
                try:
                    with self._database.reading() as session:
                        self._kept = [_up(True), *_read(session)]
                except SQLAlchemyError as error:
                    log.error("the database gives no figures: %s", error)
                    return [_up(False)]  # this process's own figures are told all the same
                self._read_at = time.monotonic()
            return self._kept


def _up(up: bool) -> Metric:
    return GaugeMetricFamily("crosskd_database_up", "Whether the database answered.", value=float(up))


def _read(session: Session) -> Iterator[Metric]:
    now = session.now()
    yield _gauge("crosskd_jobs", "Jobs by state.", ["status"], _counted(session, Job.status, get_args(Status)))
    gone = store.deleted_attempts(session)  # with their jobs
    found = _counted(session, Attempt.status, get_args(AttemptStatus))
    ended = [([status], count + gone.get(status, 0)) for [status], count in found]
    attempts = CounterMetricFamily("crosskd_attempts_ended", "Attempts by how they ended.", labels=["status"])
    for labels, count in ended:
        if labels != ["running"]:
            attempts.add_metric(labels, count)
    yield attempts
    lost = sum(count for labels, count in ended if labels == ["lost"])
    yield CounterMetricFamily("crosskd_lease_expiries", "Leases that lapsed: attempts that were lost.", value=lost)

    queued = select(Job.queue, func.count(), func.min(Job.updated_at)).where(Job.status == "queued").group_by(Job.queue)
    queues = session.execute(queued).all()
    depth = [([name], count) for name, count, _ in queues]
    yield _gauge("crosskd_queue_depth", "Jobs that wait, by queue.", ["queue"], depth)
    at_work = select(Job.queue, func.count()).where(Job.status == "running").group_by(Job.queue)
    busy = [([name], count) for name, count in session.execute(at_work)]
    yield _gauge("crosskd_queue_running", "Jobs that run, by the queue that they came through.", ["queue"], busy)
    yield _gauge(
        "crosskd_workers_busy", "Workers with an attempt, by the queue of their device set.", ["queue"], _busy(session)
    )
    ages = [([name], max((now - since).total_seconds(), 0)) for name, _, since in queues]
    yield _gauge("crosskd_queue_age_seconds", "How long the one waits that has waited longest.", ["queue"], ages)

    running = select(Job.id, Job.kind, Job.progress).where(Job.status == "running").order_by(Job.id)
    speeds = [
        ([row.id, row.kind], Progress.model_validate(row.progress).steps_per_second)
        for row in session.execute(running)
        if row.progress
    ]
    what = "Training steps per second of the jobs that run."
    yield _gauge("crosskd_job_steps_per_second", what, ["job", "kind"], speeds)
    stored = session.scalars(select(func.coalesce(func.sum(Artifact.size), 0))).one()
    yield GaugeMetricFamily("crosskd_artifact_bytes", "Bytes of all published artifacts.", value=float(stored))
    yield from _workers(session)


def _busy(session: Session) -> list[tuple[list[str], float]]:
    """A worker also takes jobs of smaller queues than its own; what it occupies is its own device set."""
    counted = select(Attempt.device, func.count()).where(Attempt.status == "running").group_by(Attempt.device)
    found: Counter[str] = Counter()
    for device, count in session.execute(counted):
        found[queue() if device == "cpu" else queue("gpu", device.count(",") + 1)] += count
    return [([name], float(count)) for name, count in sorted(found.items())]


def _workers(session: Session) -> Iterator[Metric]:
    now = session.now()
    rows = session.scalars(select(WorkerRow).where(WorkerRow.last_seen > now - HEARD).order_by(WorkerRow.name)).all()
    running = select(Attempt.worker, Attempt.device).where(Attempt.status == "running")
    at_work = {(row.worker, row.device) for row in session.execute(running)}
    ages = [
        ([row.name, row.device], max((now - row.last_seen).total_seconds(), 0))
        for row in rows
        if (row.name, row.device) in at_work
    ]
    what = "Since the last heartbeat of each worker that has an attempt."
    yield _gauge("crosskd_heartbeat_age_seconds", what, ["worker", "device"], ages)
    for name, field, what in (
        ("crosskd_device_memory_bytes", "memory_bytes", "Memory of a worker's devices."),
        ("crosskd_device_memory_used_bytes", "memory_used_bytes", "Of that, taken."),
        ("crosskd_device_utilisation", "utilisation", "The busy share of a worker's GPUs, 0..1."),
    ):
        told = [
            ([row.name, row.device, str(place), state["name"]], state[field])
            for row in rows
            for place, state in enumerate(row.devices)
        ]
        yield _gauge(name, what, ["worker", "device", "index", "name"], told)


def _counted(session: Session, column: Any, names: Sequence[str]) -> list[tuple[list[str], float]]:
    """How many rows have each of the names; 0 is told too, or a graph would have holes."""
    found = {row[0]: row[1] for row in session.execute(select(column, func.count()).group_by(column))}
    return [([name], float(found.get(name, 0))) for name in names]


def _gauge(name: str, what: str, labels: list[str], values: Sequence[tuple[list[str], float | None]]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for of, value in values:
        if value is not None:
            family.add_metric(of, float(value))
    return family
