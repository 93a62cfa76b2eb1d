"""What `POST /jobs` does: a posted specification becomes a stored job, or its dry run.

The one module of this room that knows the others: the rest of it only judges a specification.
"""

from __future__ import annotations

from api.database import Session
from api.services.files import artifacts
from api.services.jobs import capable, store
from api.services.submission import evaluate_export, start, validation
from api.settings import Settings
from wire.jobs import DryRun, JobCreate, SubmittedJob


def submit(
    session: Session, settings: Settings, order: JobCreate, owner: str, *, dry_run: bool
) -> SubmittedJob | DryRun:
    """Store the job, to be dispatched when the transaction ends. A `dry_run` tells what would be stored.

    Raises:
        InvalidSpec: with every fault of the specification.
        Unavailable: too many annotation files are being checked.
        Conflict: weights of a former job that it needs are gone.
        QuotaExceeded: `owner` has too many jobs waiting.
    """
    spec, warnings = validation.resolve(session, settings, order)
    notes = [*start.notes(session.database, settings.data_roots, spec), *evaluate_export.notes(spec)]
    stored = spec.model_dump(mode="json")
    notes += capable.warnings(session, order.kind, store.queue_of(stored), stored)
    if dry_run:
        same = {name: getattr(order, name) for name in ("kind", "name", "labels", "priority")}
        return DryRun(**same, spec_version=spec.version, spec=spec, notes=notes, warnings=warnings)
    artifacts.lock_weights(session, stored)
    job = store.create(session, settings, order, stored, owner, warnings)
    return SubmittedJob(**dict(store.detail(session, settings, job)), notes=notes)
