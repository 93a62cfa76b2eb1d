"""Leases that run out without a wait."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update

from api.database import Database
from api.models import ApiUptime, Attempt
from api.services.lifecycle import attempts
from api.settings import Settings


def reap_after(database: Database, settings: Settings, seconds: float, *, up_for: float = 3600) -> int:
    """Reap as if the leases were `seconds` older and the API had been up for `up_for` seconds."""
    with database.transaction() as session:
        now = session.now()
        back = timedelta(seconds=seconds)
        for attempt in session.scalars(select(Attempt).where(Attempt.status == "running")):
            attempt.lease_expires_at -= back
        session.insert_if_absent(ApiUptime, {"id": 1, "at": now, "since": now})
        session.execute(update(ApiUptime).values(at=now, since=now - timedelta(seconds=up_for)))
    with database.transaction() as session:
        return attempts.reap(session, settings)
