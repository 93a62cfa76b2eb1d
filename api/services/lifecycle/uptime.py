"""The API's pulse: since when workers could reach it without a gap. The reaper asks, wherever it runs."""

from __future__ import annotations

from datetime import timedelta

from api.database import Session
from api.models import Pulse
from api.settings import Settings


def beat(session: Session, settings: Settings) -> None:
    """Note that an API process is alive. After half a lease without a beat, a new stretch begins."""
    now = session.now()
    session.insert_if_absent(Pulse, {"id": 1, "at": now, "since": now})
    pulse = session.get_one(Pulse, 1, with_for_update=True)
    if now - pulse.at > timedelta(seconds=settings.lease_seconds / 2):
        pulse.since = now
    pulse.at = max(now, pulse.at)
