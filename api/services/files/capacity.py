"""How much more may be stored: the free space of the disk, and the bytes that all artifacts, or one owner's, may have.

The floor keeps a share of the disk free, so that the database on it can still write when no upload is taken any more.
The bounds on bytes are counted from the rows. An upload that cannot fit is refused before its body is read; what counts
is the second look, in the transaction that publishes, where those of all others are seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import ColumnElement, Select, func, or_, select

from api.database import Session
from api.errors import InsufficientStorage
from api.models import Artifact, Job
from api.services.files import retention
from api.settings import Settings
from wire.errors import Fault
from wire.jobs import FINAL

NEARLY = 0.99  # of the bytes that may be stored: what comes next is as good as refused
SUGGESTED = 3  # jobs whose deletion would help most


def check_free_space(settings: Settings, coming: int) -> None:
    """Raises `InsufficientStorage` where the disk had less than the floor left, were `coming` more bytes stored."""
    if (floor := settings.min_free_bytes) and (free := _free(settings.storage)) - coming < floor:
        raise InsufficientStorage(
            f"the disk of the artifacts has {free:,} bytes free, {coming:,} more are coming, and {floor:,} stay free",
            remedy="Make room on the disk of CROSSKD_STORAGE: delete jobs that are at their end, or other files. "
            "CROSSKD_MIN_FREE_BYTES is what stays free.",
        )


def admit(session: Session, settings: Settings, job_id: str, name: str, kind: str, size: int) -> None:
    """Raises `InsufficientStorage` where an upload cannot fit, with what its publication removes.

    That is the file of the same name, and those checkpoints that a newer one makes superfluous.
    """
    if not _bounded(settings):
        return
    going: ColumnElement[bool] = Artifact.name == name
    if kind == "checkpoint":
        going = or_(going, Artifact.id.in_(_superseded(session, job_id)))
    _check(session, settings, job_id, size - session.scalars(_bytes().where(Artifact.job_id == job_id, going)).one())


def check_totals(session: Session, settings: Settings, job_id: str) -> None:
    """Raises `InsufficientStorage` if more is stored than may be. Uploads wait here for each other until they commit.

    It comes last in a transaction: the lock is one for all.
    """
    if _bounded(settings):
        session.flush()
        session.lock("storage")
        _check(session, settings, job_id, 0)


def shortages(session: Session, settings: Settings) -> Iterator[Fault]:
    """Why no upload is taken at present, whoever sends it."""
    for folder in sorted({settings.storage, settings.home}):
        if settings.min_free_bytes and (free := _free(folder)) < settings.min_free_bytes:
            what = f"{free:,} bytes are free in {folder}, and {settings.min_free_bytes:,} must be"
            yield Fault(pointer="storage", detail=what, remedy="Make room there; CROSSKD_MIN_FREE_BYTES is the bound.")
    if (limit := settings.storage_limit) is not None and (used := _used(session)) >= NEARLY * limit:
        what = f"artifacts have {used:,} bytes, and {limit:,} may be"
        yield Fault(pointer="storage", detail=what, remedy=_remedy(session, None, "CROSSKD_STORAGE_LIMIT"))


def _bounded(settings: Settings) -> bool:
    return settings.storage_limit is not None or settings.storage_limit_per_owner is not None


def _check(session: Session, settings: Settings, job_id: str, growth: int) -> None:
    """Of the bytes that are stored, and `growth` more."""
    limit, per_owner = settings.storage_limit, settings.storage_limit_per_owner
    if limit is not None and (used := _used(session)) + growth > limit:
        what = f"artifacts would have {used + growth:,} bytes, and {limit:,} may be"
        raise InsufficientStorage(what, remedy=_remedy(session, None, "CROSSKD_STORAGE_LIMIT"))
    if per_owner is not None:
        owner = session.scalars(select(Job.owner).where(Job.id == job_id)).one()
        if (used := _used(session, owner)) + growth > per_owner:
            what = f"artifacts of {owner} would have {used + growth:,} bytes, and {per_owner:,} may be"
            raise InsufficientStorage(what, remedy=_remedy(session, owner, "CROSSKD_STORAGE_LIMIT_PER_OWNER"))


def _superseded(session: Session, job_id: str) -> list[str]:
    """The checkpoints that `retention.trim` removes once a newer one is published."""
    spec = session.scalars(select(Job.spec).where(Job.id == job_id)).one()
    last: int = spec.get("checkpoint", {}).get("keep_last", 1)
    return [found.id for found in retention.surplus_checkpoints(session, job_id, max(last - 1, 0))]


def _bytes() -> Select[int]:
    return select(func.coalesce(func.sum(Artifact.size), 0))


def _used(session: Session, owner: str | None = None) -> int:
    query = _bytes()
    if owner is not None:
        query = query.join(Job, Job.id == Artifact.job_id).where(Job.owner == owner)
    return int(session.scalars(query).one())


def _remedy(session: Session, owner: str | None, setting: str) -> str:
    """What to delete: of the jobs that may be, those with the most bytes."""
    size = func.sum(Artifact.size)
    query = select(Artifact.job_id, size).join(Job, Job.id == Artifact.job_id).where(Job.status.in_(FINAL))
    if owner is not None:
        query = query.where(Job.owner == owner)
    found = session.execute(query.group_by(Artifact.job_id).order_by(size.desc(), Artifact.job_id).limit(SUGGESTED))
    jobs = ", ".join(f"/jobs/{job} ({int(used):,} bytes)" for job, used in found)
    what = f"DELETE what is at its end and no longer needed, such as {jobs}" if jobs else "Wait for a job to end"
    return f"{what}; or raise {setting}."


def _free(folder: Path) -> int:
    """Bytes that are left to whoever is not root."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
