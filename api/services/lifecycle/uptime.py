"""The API's uptime: since when workers could reach it without a gap. The reaper asks, wherever it runs."""

from __future__ import annotations

from datetime import timedelta

from api.database import Session
from api.models import ApiUptime
from api.settings import Settings


def record(session: Session, settings: Settings) -> None:
    """Record that an API process is alive. After half a lease without a record, the uptime begins anew."""
    now = session.now()
    session.insert_if_absent(ApiUptime, {"id": 1, "at": now, "since": now})
    uptime = session.get_one(ApiUptime, 1, with_for_update=True)
    if now - uptime.at > timedelta(seconds=settings.lease_seconds / 2):
        uptime.since = now
    uptime.at = max(now, uptime.at)
