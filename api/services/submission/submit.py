"""What `POST /jobs` does: a posted specification becomes a stored job, or its dry run.

The one module of this room that knows the others: the rest of it only judges a specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from api.database import Session
from api.errors import InvalidSpec
from api.models import Job
from api.services.datasets import versions
from api.services.files import artifacts
from api.services.jobs import capable, dependencies, store
from api.services.submission import evaluate_export, unlabelled, validation, weights_notes
from api.services.submission.shared import Shared
from api.settings import Settings
from api.storage import Storage
from crosskd.spec.config import TrainConfig
from crosskd.spec.data.import_config import ImportConfig
from crosskd.spec.evaluate_export import unexportable
from wire.datasets import DatasetCreate
from wire.jobs import DataWarning, DryRun, JobCreate, Spec, SubmittedJob


class Judged(NamedTuple):
    """A specification as it would be stored, what is good to know of it, and what was found in its data."""

    spec: Spec
    notes: list[str]
    warnings: list[DataWarning]


def submit(
    session: Session, settings: Settings, storage: Storage, order: JobCreate, owner: str, *, dry_run: bool
) -> SubmittedJob | DryRun:
    """Store the job, to be dispatched when the transaction ends or, if later, when the weights that it needs are there.

    A `dry_run` tells what would be stored.

    Raises:
        InvalidSpec: with every fault of the specification.
        Unavailable: too many annotation files are being checked.
        Conflict: weights of another job that it needs are gone, or will never be; or its data set is gone.
        QuotaExceeded: `owner` has too many jobs waiting.
        Conflict: it imports a data set whose name is another owner's.
    """
    judged = judge(session, settings, order, Shared(storage))
    notes = judged.notes + further_notes(session, order.kind, judged.spec)
    if dry_run:
        same = {name: getattr(order, name) for name in ("kind", "name", "labels", "priority")}
        spec = judged.spec
        return DryRun(**same, spec_version=spec.version, spec=spec, notes=notes, warnings=judged.warnings)
    job = keep(session, settings, order, judged.spec, owner, warnings=judged.warnings)
    return SubmittedJob(**dict(store.detail(session, settings, job)), notes=notes)


def submit_import(
    session: Session, settings: Settings, storage: Storage, order: DatasetCreate, owner: str, *, dry_run: bool
) -> SubmittedJob | DryRun:
    """As `submit`, of the job that imports a data set; faults are told at the fields of `order`."""
    labels, priority = order.labels, order.priority
    spec = ImportConfig.model_validate(order.spec())
    job = JobCreate(kind="import", name=order.name, labels=labels, priority=priority, spec=spec)
    try:
        return submit(session, settings, storage, job, owner, dry_run=dry_run)
    except InvalidSpec as error:
        error.errors = [
            fault.model_copy(update={"pointer": fault.pointer.removeprefix("/spec")}) for fault in error.errors
        ]
        raise


def judge(session: Session, settings: Settings, order: JobCreate, shared: Shared) -> Judged:
    """Before the request's first statement: it reads files, and begins no transaction of `session`.

    Raises `InvalidSpec` and `Unavailable`, as `submit` does. `shared` is for several orders of one request.
    """
    spec, warnings = validation.resolve(session, settings, order, shared)
    notes = [*weights_notes.notes(session.database, settings.data_roots, spec), *evaluate_export.notes(spec)]
    notes += unlabelled.notes(spec)
    return Judged(spec, notes, warnings)


def further_notes(session: Session, kind: str, spec: Spec) -> list[str]:
    """What the other jobs and the workers make of a specification."""
    stored = spec.model_dump(mode="json")
    waits = dependencies.notes(session, stored)
    return waits + _without_onnx(spec) + capable.warnings(session, kind, store.queue_of(stored), stored)


def keep(
    session: Session,
    settings: Settings,
    order: JobCreate,
    spec: Spec,
    owner: str,
    job_id: str | None = None,
    warnings: Sequence[DataWarning] = (),
) -> Job:
    """Store a job with its judged `spec`, and the `warnings` of it, under `job_id` if it was promised one.

    Raises as `submit` does.
    """
    stored = spec.model_dump(mode="json")
    artifacts.lock_weights(session, stored)
    versions.lock_use(session, stored)
    if order.kind == "import":
        versions.claim_name(session, order.name, owner)
    return store.create(session, settings, order, stored, owner, job_id, warnings)


def _without_onnx(spec: Spec) -> list[str]:
    """That a training will leave no graph, where that is known beforehand."""
    if not isinstance(spec, TrainConfig) or spec.export is None or not (fault := unexportable(spec.student)):
        return []
    return [f"the training will leave no model.onnx, which predictions need: {fault}"]
