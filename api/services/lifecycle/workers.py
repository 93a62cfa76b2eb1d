"""Who the workers are: recorded with every registration, claim and heartbeat, in the transaction of that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from api.database import Session
from api.models import Attempt, Job
from api.models import Worker as Row
from api.services.jobs import capable
from wire import workers as wire


def register(session: Session, registration: wire.Registration) -> None:
    """A worker says that it is there."""
    told, now = registration, session.now()
    machine = None if told.machine is None else _seen(told.machine, now)
    record_seen(session, now, told.worker, told.device, told.devices, versions=told.versions, machine=machine)


def _seen(machine: wire.MachineReport, now: datetime) -> dict[str, Any]:
    ahead = None if machine.seconds is None else machine.seconds - now.timestamp()
    return {**machine.model_dump(exclude={"seconds"}), "clock_ahead_seconds": ahead}


def record_seen(
    session: Session, now: datetime, worker: str, device: str, devices: list[wire.DeviceState], **more: Any
) -> None:
    """The worker was heard of. What it says of no device leaves the former as it was."""
    fresh: dict[str, Any] = {"last_seen": now, **more}
    if devices:
        fresh["devices"] = [state.model_dump() for state in devices]
    known = update(Row).where(Row.name == worker, Row.device == device).values(**fresh).returning(Row.name)
    if session.scalar(known) is None:
        first = {"name": worker, "device": device, "first_seen": now, "devices": [], "versions": {}, "machine": None}
        session.insert_if_absent(Row, first | fresh)  # not there only if it came this very moment: then it is as fresh


def listing(session: Session, data_roots: Sequence[Path]) -> wire.WorkerList:
    """Those heard of lately, the last first; `data_roots` are this API's."""
    rows = capable.heard_of(session)
    running = session.execute(
        select(Attempt.worker, Attempt.device, Attempt.id, Attempt.number, Attempt.job_id, Job.name)
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.status == "running")
        .order_by(Attempt.started_at)
    )
    at_work = {
        (row.worker, row.device): wire.LiveAttempt(id=row.id, number=row.number, job=row.job_id, job_name=row.name)
        for row in running
    }
    return wire.WorkerList(
        items=[
            wire.Worker(
                name=row.name,
                device=row.device,
                devices=[wire.DeviceState.model_validate(state) for state in row.devices],
                versions=row.versions,
                machine=None if row.machine is None else wire.MachineSeen.model_validate(row.machine),
                attempt=at_work.get((row.name, row.device)),
                first_seen=row.first_seen,
                last_seen=row.last_seen,
            )
            for row in rows
        ],
        data_roots=[str(root) for root in data_roots],
    )
