"""What the database and the storage hold of artifacts."""

from __future__ import annotations

from sqlalchemy import select

from api.database import Database
from api.models import Artifact
from api.storage import Storage


def steps(database: Database, job: str) -> list[int]:
    """The steps of a job's checkpoints."""
    found = select(Artifact.step).where(Artifact.job_id == job, Artifact.kind == "checkpoint").order_by(Artifact.step)
    with database.reading() as session:
        return [step for step in session.scalars(found) if step is not None]


def agree(database: Database, storage: Storage) -> bool:
    """Whether every row has its file, and every file its row."""
    with database.reading() as session:
        return sorted(session.scalars(select(Artifact.path))) == sorted(stored.key for stored in storage.files())
