"""Named data sets and their versions: a name is claimed by an import, a version is made when one succeeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import delete, select

from api.database import Session
from api.errors import Conflict, NotFound
from api.models import Artifact, DatasetVersion, Job, JobDataset, NamedDataset
from api.services.files import artifacts
from api.services.jobs import dependencies
from wire.artifacts import ANNOTATIONS, DATASET_REPORT, ArtifactRef
from wire.datasets import NAME_PATTERN, SHORTEST_DIGEST, ImportResult
from wire.jobs import UNFINISHED, Failure

_NEEDED = frozenset({ANNOTATIONS["train"], ANNOTATIONS["val"], DATASET_REPORT})
_PREFIX = re.compile(rf"[0-9a-f]{{{SHORTEST_DIGEST},64}}")


def find(session: Session, name: str, *, lock: bool = False) -> NamedDataset:
    """Raises `NotFound`, also for what is no name at all."""
    known = re.fullmatch(NAME_PATTERN, name) is not None
    found = session.get(NamedDataset, name, with_for_update=lock or None) if known else None
    if found is None:
        raise NotFound("there is no such data set", remedy="GET /datasets lists them; POST /datasets adds one.")
    return found


def claim_name(session: Session, name: str, owner: str) -> None:
    """Before an import of `name` is stored: the name is `owner`'s from now on, and stays while the transaction runs.

    Raises `Conflict`: it is another owner's.
    """
    session.insert_if_absent(NamedDataset, {"name": name, "owner": owner, "created_at": session.now()})
    found = session.get(NamedDataset, name, with_for_update=True)
    if found is not None and found.owner != owner:
        raise Conflict(
            f"the data set {name!r} is {found.owner}'s, who alone may add versions to it",
            remedy="Import it under another name, or with a token of that owner.",
        )


def unfit(session: Session, job: Job, manifest: dict[str, Any]) -> Failure | None:
    """Why an import that its worker calls a success is none: what it has made is not what a version needs."""
    try:
        ImportResult.model_validate(manifest)
    except ValidationError as error:
        where = "/".join(map(str, error.errors()[0]["loc"]))
        message = f"the import's manifest is not as it should be: {where}: {error.errors()[0]['msg']}"
        return Failure(failure_class="infrastructure", message=message, remedy="Run workers of the API's version.")
    there = set(session.scalars(select(Artifact.name).where(Artifact.job_id == job.id, Artifact.name.in_(_NEEDED))))
    if missing := sorted(_NEEDED - there):
        message = f"the import has not published {', '.join(missing)}"
        return Failure(failure_class="infrastructure", message=message, remedy="Run workers of the API's version.")
    return None


def register(session: Session, job: Job, manifest: dict[str, Any]) -> None:
    """Of an import that has succeeded: a new version, or the files of one that has the same content."""
    result = ImportResult.model_validate(manifest)
    now = session.now()
    values = {"job_id": job.id, "result": result.model_dump(mode="json"), "imported_at": now}
    key = {"name": job.name, "digest": result.digest}
    session.insert_if_absent(NamedDataset, {"name": job.name, "owner": job.owner, "created_at": now})
    if not session.insert_if_absent(DatasetVersion, {**key, **values, "created_at": now}):
        version = session.get(DatasetVersion, (job.name, result.digest), with_for_update=True)
        assert version is not None
        for name, value in values.items():
            setattr(version, name, value)
        session.flush()


def newest_first(session: Session, name: str, limit: int, prefix: str = "") -> Sequence[DatasetVersion]:
    """The versions of a data set whose digest begins with `prefix`."""
    query = select(DatasetVersion).where(DatasetVersion.name == name)
    if prefix:
        query = query.where(DatasetVersion.digest.startswith(prefix))
    order = (DatasetVersion.imported_at.desc(), DatasetVersion.digest)
    return session.scalars(query.order_by(*order).limit(limit)).all()


def find_version(session: Session, name: str, digest: str) -> DatasetVersion:
    """By its digest or the beginning of it.

    Raises:
        NotFound: there is no such data set or version.
        Conflict: several versions begin so.
    """
    found = find(session, name)
    versions = newest_first(session, found.name, 3, digest) if _PREFIX.fullmatch(digest) else []
    if not versions:
        remedy = f"GET /datasets/{found.name} lists its versions; {SHORTEST_DIGEST} digits of a digest are enough."
        raise NotFound(f"the data set {found.name} has no such version", remedy=remedy)
    if len(versions) > 1:
        told = " and ".join(version.digest for version in versions[:2])
        raise Conflict(f"several versions of {found.name} begin so: {told}", remedy="Give more digits of the digest.")
    return versions[0]


def lock_use(session: Session, spec: dict[str, Any]) -> None:
    """Keep the version that a stored `spec` reads from being deleted until the transaction ends; from then on `remove`
    finds the job. Raises `Conflict`: it is gone."""
    if (read := dependencies.dataset(spec)) is None:
        return
    kept = session.scalar(select(NamedDataset.name).where(NamedDataset.name == read[0]).with_for_update())
    if kept is None or session.get(DatasetVersion, read) is None:
        raise Conflict(
            f"the data set {read[0]}@{read[1]}, which this job reads, is gone",
            remedy="Import it again (POST /datasets), or post a job with other data.",
        )


def version_of(session: Session, spec: dict[str, Any]) -> DatasetVersion | None:
    """The version that a stored specification reads, if it reads one that there is."""
    read = dependencies.dataset(spec)
    return None if read is None else session.get(DatasetVersion, read)


def placed(spec: dict[str, Any], version: DatasetVersion | None) -> dict[str, Any]:
    """A stored specification with the images where they lie by now, which a later import of the content may say."""
    if version is None:
        return spec
    data = spec["data"]
    moved = {split: {**data[split], "images": version.result["images"]} for split in ("train", "val") if split in data}
    return {**spec, "data": {**data, **moved}}


def annotation_files(session: Session, version: DatasetVersion | None) -> dict[str, ArtifactRef]:
    """What a worker fetches to read the version, by split."""
    if version is None:
        return {}
    named = {name: artifacts.named_ref(session, version.job_id, file) for name, file in ANNOTATIONS.items()}
    return {name: ref for name, ref in named.items() if ref is not None}


def annotation_artifact(session: Session, version: DatasetVersion | None, split: str) -> Artifact | None:
    """The annotation file of a split of a version."""
    if version is None:
        return None
    named = Artifact.name == ANNOTATIONS[split]
    return session.scalar(select(Artifact).where(Artifact.job_id == version.job_id, named))


def importing(session: Session, name: str, limit: int) -> Sequence[str]:
    """Jobs that are about to import the data set, the newest first."""
    query = select(Job.id).where(Job.name == name, Job.kind == "import", Job.status.in_(UNFINISHED))
    return session.scalars(query.order_by(Job.id.desc()).limit(limit)).all()


def held_by(session: Session, job_id: str) -> DatasetVersion | None:
    """The version whose files are this job's."""
    return session.scalar(select(DatasetVersion).where(DatasetVersion.job_id == job_id).limit(1))


def remove(session: Session, name: str) -> None:
    """Forget a data set with all versions. The jobs that have imported it stay, and may be deleted then.

    Raises:
        NotFound: there is no such data set.
        Conflict: a job that is not at its end reads it, or is about to import it.
    """
    found = find(session, name, lock=True)
    if jobs := importing(session, found.name, 1):
        raise Conflict(
            f"the job {jobs[0]} is about to import {found.name}",
            remedy=f"Delete it when that one has ended, or cancel that one: POST /jobs/{jobs[0]}/cancel.",
        )
    reading = (
        select(Job.id)
        .join(JobDataset, JobDataset.job_id == Job.id)
        .where(JobDataset.name == found.name, Job.status.in_(UNFINISHED))
    )
    if (user := session.scalar(reading.order_by(Job.id).limit(1))) is not None:
        raise Conflict(
            f"the job {user} still reads {found.name}",
            remedy=f"Delete it when that one has ended, or cancel that one: POST /jobs/{user}/cancel.",
        )
    session.execute(delete(NamedDataset).where(NamedDataset.name == found.name))  # versions go by ON DELETE CASCADE
