"""`data.dataset`: from the name of an imported data set to one version of it, and to the files behind that."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from api.database import Database, Session
from api.models import Artifact, DatasetVersion, Job, NamedDataset
from api.services.submission.datasets import CheckFailed, Stored
from api.services.submission.findings import Findings
from api.storage import Storage
from crosskd.spec.data.section import CocoSplit, annotations_of
from crosskd.spec.inputs import Input
from crosskd.spec.nearest import did_you_mean
from wire.artifacts import ANNOTATIONS
from wire.datasets import ImportResult

POINTER = "/spec/data/dataset"
_COMPARED = 1000  # names that a wrong one is compared with
_COPIED = 1 << 20  # bytes at a time


@dataclass(frozen=True)
class Version:
    """A version that a specification means. `files`: by split, the artifact behind its annotation file."""

    name: str
    digest: str
    images: str
    files: dict[str, Artifact]

    @property
    def text(self) -> str:
        """As a stored specification says it."""
        return f"{self.name}@{self.digest}"


def find(database: Database, text: str, findings: Findings) -> Version | None:
    """The version that NAME or NAME@DIGEST means; None after adding to `findings` why there is none."""
    name, _, digest = text.partition("@")
    with database.reading() as session:
        found = _find(session, name, digest, findings)
        if found is None:
            return None
        named = Artifact.name.in_(ANNOTATIONS.values())
        rows = session.scalars(select(Artifact).where(Artifact.job_id == found.job_id, named))
        files = {row.name.removesuffix(".json"): row for row in rows}
    return Version(name, found.digest, ImportResult.model_validate(found.result).images, files)


def _find(session: Session, name: str, digest: str, findings: Findings) -> DatasetVersion | None:
    query = select(DatasetVersion).where(DatasetVersion.name == name)
    query = query.order_by(DatasetVersion.imported_at.desc(), DatasetVersion.digest)
    versions = session.scalars(query.where(DatasetVersion.digest.startswith(digest)).limit(3)).all()
    if len(versions) == 1 or (versions and not digest):
        return versions[0]
    if versions:
        told = " and ".join(version.digest[: len(digest) + 6] for version in versions[:2])
        findings.add(POINTER, f"several versions of {name} begin with {digest}: {told}", "Give more of the digest.")
    elif digest and session.scalar(query.limit(1)) is not None:
        findings.add(POINTER, f"{name} has no version {digest}", f"GET /datasets/{name} lists its versions.")
    elif session.get(NamedDataset, name) is not None:
        findings.add(POINTER, f"no import of {name} has succeeded yet{_import(session, name)}", _UNFINISHED)
    else:
        names = session.scalars(select(NamedDataset.name).order_by(NamedDataset.name).limit(_COMPARED)).all()
        near = did_you_mean(name, names)
        findings.add(POINTER, f"there is no data set {name}", f"{near} Import it: POST /datasets.".lstrip())
    return None


_UNFINISHED = "Wait until its import has succeeded; if it failed, the job says why."


def _import(session: Session, name: str) -> str:
    newest = select(Job).where(Job.name == name, Job.kind == "import").order_by(Job.id.desc()).limit(1)
    job = session.scalar(newest)
    return "" if job is None else f": the job {job.id} {'has ' if job.status == 'failed' else 'is '}{job.status}"


def judge_files(version: Version, given: CocoSplit, split: str, asked: str, findings: Findings) -> None:
    """Files that were named beside the data set are refused, unless they are those that it stands for."""
    if given.annotations not in {annotations_of(version.text, split), annotations_of(asked, split)}:
        detail = f"{given.annotations!r} is not of the data set {version.text}, which names its files itself"
        findings.add(f"/spec/data/{split}/annotations", detail, f"Leave `data.{split}` or `data.dataset` out.")


def stored(version: Version, split: str, storage: Storage) -> Stored:
    """The annotation file of a split, to be checked. Raises `CheckFailed`: the version has none."""
    artifact = version.files.get(split)
    if artifact is None:
        raise CheckFailed(f"has no {split}.json any more", "Import the data set again.")

    @contextmanager
    def fetch() -> Iterator[Input]:
        with tempfile.TemporaryFile() as copy:
            try:
                with storage.open(artifact.path) as source:
                    while chunk := source.read(_COPIED):
                        copy.write(chunk)
            except FileNotFoundError:
                raise CheckFailed("is gone from the storage", "Import the data set again.") from None
            copy.seek(0, io.SEEK_SET)
            with Input(Path(annotations_of(version.text, split)), os.dup(copy.fileno())) as found:
                yield found

    return Stored(Path(annotations_of(version.text, split)), artifact.sha256, fetch)
