"""Weights of former jobs that a job about to be stored will need: a deletion meanwhile would leave it without them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from api.database import Session
from api.errors import Conflict
from api.models import Job
from api.services import artifacts


def hold(session: Session, spec: dict[str, Any]) -> None:
    """Keep the jobs whose weights the stored `spec` names from being deleted until the transaction ends.

    From then on `control.remove` finds the job that needs them. On SQLite the transaction itself keeps all others out.

    Raises:
        Conflict: they are gone.
    """
    for section in (spec.get("teacher"), spec):
        named = ((section or {}).get("weights") or {}).get("job")
        if not named:
            continue
        session.execute(select(Job.id).where(Job.id == named).with_for_update(read=True, key_share=True))
        if artifacts.weights_ref(session, section) is None:
            raise Conflict(
                f"the weights of the job {named}, which this one needs, are gone",
                remedy="Post a job with other weights.",
            )
