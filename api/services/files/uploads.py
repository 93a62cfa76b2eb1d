"""Uploads: a file of any size, staged, verified by its digest, and published under its name in one step.

A file that came only in part stays staged. Its part is named by the attempt, the file's name, its size and its digest:
a second request for the very same bytes finds it and goes on behind it, in whichever process of the API.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, get_args

from anyio.to_thread import run_sync
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from api import infrastructure_errors
from api.auth import Fence
from api.database import Database, Session
from api.errors import (
    ApiError,
    BadRequest,
    DigestMismatch,
    InFlight,
    InsufficientStorage,
    InvalidSpec,
    LengthRequired,
    PayloadTooLarge,
    Unavailable,
    WrongOffset,
    invalid_query,
)
from api.models import Artifact, new_id
from api.services.files import capacity
from api.services.files.artifacts import as_wire
from api.services.files.retention import trim
from api.services.jobs.fencing import AttemptRow, running_attempt
from api.settings import Settings
from api.storage import OffsetMismatch, PartLocked, StagedUpload, Storage, StorageUnavailable
from api.stores.threads import PUBLISHING, STAGING
from crosskd.spec.results.files import BEST_FILES, kind_of
from wire import artifacts as wire

MAX_FILES = 40_000  # of a job; evaluations make two each
IDLE_SECONDS = 30.0  # a sender that is silent for longer has gone, even if its connection does not say so
WRITE_SIZE = 1 << 20  # bytes: chunks off the network are smaller, and each write costs a hop to a thread
_SHA256 = re.compile(r"(?:^|,)[ \t]*sha-256=:([A-Za-z0-9+/]{43}=):[ \t]*(?:;[^,]*)?(?=,|$)")
_CHECKPOINT = re.compile(r"checkpoint-(\d{8,15})\.pt")
_KINDS: dict[str, wire.ArtifactKind] = {
    wire.BEST_WEIGHTS: "weights",
    wire.LAST_WEIGHTS: "weights",
    wire.LOG: "log",
    wire.MANIFEST: "manifest",
    wire.DATASET_REPORT: "report",
    **dict.fromkeys(wire.ANNOTATIONS.values(), "annotations"),
    **{name: kind_of(kept) for kept, name in BEST_FILES.items()},
}


_NAMES = get_args(wire.ArtifactKind)
_LISTED = f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}"


class UploadMetadata(NamedTuple):
    """What the request says before the first byte of its body: the file, and which `length` bytes of it come now."""

    name: str
    kind: wire.ArtifactKind
    step: int | None
    size: int
    sha256: bytes
    offset: int
    length: int

    def part(self, attempt: str) -> str:
        """The name of its staged bytes."""
        return part_name(attempt, self.name, self.size, self.sha256)


class StalledUpload(Exception):
    """Nothing more came for a while: what has arrived is kept, and no longer held by this request."""


class PublishedArtifact(NamedTuple):
    artifact: wire.Artifact
    new: bool  # False: these very bytes stood under this name already


def parse_headers(
    name: str,
    kind: wire.ArtifactKind | None,
    step: int | None,
    content_length: str | None,
    digest: str | None,
    header: str = "Content-Digest",
) -> UploadMetadata:
    """Check the head of an upload. `kind` and `step` follow from the names that the core gives its files; `header`
    is the one that `digest` stood in.

    Raises:
        LengthRequired, BadRequest: without a length, or without a sha-256 to hold the body against.
        InvalidSpec: neither query nor name tells the kind, or a checkpoint's step.
    """
    length = _length(content_length)
    kind, step = kind_and_step(name, kind, step)
    return UploadMetadata(name, kind, step, length, digest_of(header, digest), 0, length)


def kind_and_step(
    name: str,
    kind: wire.ArtifactKind | None,
    step: int | None,
    refused: Callable[[str, str, str], InvalidSpec] = invalid_query,
) -> tuple[wire.ArtifactKind, int | None]:
    """Kind and step of a file, by its name where they are not given. Raises `InvalidSpec`, made by `refused`."""
    checkpoint = _CHECKPOINT.fullmatch(name)
    kind = kind or ("checkpoint" if checkpoint else _KINDS.get(name))
    if kind is None:
        raise refused("kind", f"the name {name!r} tells no kind", f"Add `kind`: {_LISTED}.")
    if step is None and checkpoint:
        step = int(checkpoint[1])
    if step is None and kind == "checkpoint":
        raise refused("step", "a checkpoint needs its step", "Add `step`.")
    return kind, step


def resume_at(upload: UploadMetadata, offset: int, size: int) -> UploadMetadata:
    """The same head for a body that is bytes `offset` and following of a file of `size` bytes. Raises `BadRequest`."""
    if offset + upload.length > size:
        raise BadRequest(
            f"{upload.length} bytes from byte {offset} on are more than the {size} of the file",
            remedy="Send Upload-Length as the size of the whole file, Content-Length as that of this body.",
        )
    return upload._replace(offset=offset, size=size)


def part_name(attempt: str, name: str, size: int, sha256: bytes) -> str:
    return hashlib.sha256(f"{attempt}\0{name}\0{size}\0{sha256.hex()}".encode()).hexdigest()


def _length(content_length: str | None) -> int:
    if content_length is None or not re.fullmatch(r"[0-9]{1,18}", content_length):
        raise LengthRequired("the upload does not say its size", remedy="Send Content-Length, not chunks.")
    return int(content_length)


def received_bytes(database: Database, storage: Storage, fence: Fence, name: str, size: int, sha256: bytes) -> int:
    """How many bytes of a file there are; all of them once it is published. Raises as `running_attempt` does."""
    with database.reading() as session:
        attempt = running_attempt(session, fence, lock=False)
        if find_published(session, attempt, name, sha256) is not None:
            return size
    return storage.staged_size(part_name(fence.attempt, name, size, sha256))


async def receive(
    database: Database,
    storage: Storage,
    settings: Settings,
    fence: Fence,
    upload: UploadMetadata,
    body: AsyncIterator[bytes],
) -> PublishedArtifact | int:
    """Take the body in; publish the file once it is whole, else tell how many bytes of it there are.

    A connection that breaks leaves what has arrived, a body that is refused leaves nothing. Disk and database work
    runs in threads.

    Raises:
        NotFound, StaleAttempt: the attempt is not there, or no longer its job's; also if it was given up meanwhile.
        BadRequest: the body is not what was announced; `DigestMismatch` if nothing but its bytes are wrong.
        InFlight, WrongOffset: another request brings the same file; it goes on elsewhere.
        StalledUpload: nothing came for `IDLE_SECONDS`.
        InsufficientStorage: the disk is full, or as many bytes are stored as may be.
        Unavailable: too many wait for the storage already.
    """
    admitted = await run_sync(_admit, database, settings, fence, upload)
    if isinstance(admitted, PublishedArtifact):
        return admitted
    with _disk_full_as_problem(), await STAGING.run_if_soon(_open, storage, fence, upload) as staged:
        try:
            await _stage(staged, settings, upload, body)
            if staged.size < upload.size:
                return staged.size
            return await _publish(database, storage, settings, fence, admitted, upload, staged)
        except (StorageUnavailable, Unavailable):
            raise  # what has arrived is good, and published once the storage is back, or has time
        except (ApiError, OSError):
            staged.discard()
            raise


def _open(storage: Storage, fence: Fence, upload: UploadMetadata) -> StagedUpload:
    try:
        return storage.stage(upload.part(fence.attempt), upload.offset)
    except PartLocked:
        raise InFlight("another request is bringing this file", remedy="Ask with HEAD how much has arrived.") from None
    except OffsetMismatch as other:
        raise WrongOffset(
            f"{other.size} bytes of the file have arrived, the body begins at byte {upload.offset}",
            remedy=f"Go on at byte {other.size}.",
            offset=other.size,
        ) from None


async def _stage(staged: StagedUpload, settings: Settings, upload: UploadMetadata, body: AsyncIterator[bytes]) -> None:
    waiting: list[bytes] = []
    came = held = 0
    while (chunk := await _next(body)) is not None:
        waiting.append(chunk)
        came += len(chunk)
        held += len(chunk)
        if came > upload.length:
            break  # refused below
        if held >= WRITE_SIZE:
            await STAGING.run(_write, staged, settings, b"".join(waiting))
            waiting, held = [], 0
    if came != upload.length:
        raise BadRequest(
            f"the body has {came} bytes or more, Content-Length said {upload.length}",
            remedy="Send the whole file again.",
        )
    await STAGING.run(staged.write, b"".join(waiting))
    if staged.size == upload.size and await PUBLISHING.run_if_soon(staged.sha256) != upload.sha256:
        raise DigestMismatch("the bytes that came are not those of the digest", remedy="Send the whole file again.")


def _write(staged: StagedUpload, settings: Settings, content: bytes) -> None:
    capacity.check_free_space(settings, len(content))  # others write meanwhile, too
    staged.write(content)


async def _next(body: AsyncIterator[bytes]) -> bytes | None:
    """The next bytes of the body, None at its end. Raises `StalledUpload`."""
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            return await anext(body, None)
    except TimeoutError:
        raise StalledUpload from None


def _admit(database: Database, settings: Settings, fence: Fence, upload: UploadMetadata) -> str | PublishedArtifact:
    """The job of a live attempt. It is asked before the body is read, and again when that is published.

    Or the artifact, where nothing but the answer is missing: it was lost after the publication.
    """
    with database.reading() as session:
        attempt = running_attempt(session, fence, lock=False)
        if 0 < upload.offset == upload.size:
            artifact = find_published(session, attempt, upload.name, upload.sha256)
            if artifact is not None:
                return PublishedArtifact(as_wire(artifact, attempt.number), new=False)
        capacity.check_free_space(settings, upload.length)
        capacity.admit(session, settings, attempt.job_id, upload.name, upload.kind, upload.size)
        return attempt.job_id


def find_published(session: Session, attempt: AttemptRow, name: str, sha256: bytes) -> Artifact | None:
    """What the attempt has published of just these bytes under the name."""
    query = select(Artifact).where(Artifact.job_id == attempt.job_id, Artifact.name == name)
    return session.scalar(query.where(Artifact.attempt_id == attempt.id, Artifact.sha256 == sha256.hex()))


async def _publish(
    database: Database,
    storage: Storage,
    settings: Settings,
    fence: Fence,
    job_id: str,
    upload: UploadMetadata,
    staged: StagedUpload,
) -> PublishedArtifact:
    key = f"{job_id}/{new_id()}-{upload.name}"
    # Outside of the transaction: to sync a large file takes seconds, and SQLite has one writer at a time.
    await PUBLISHING.run(storage.publish, staged, key)
    return await run_sync(record, database, storage, settings, fence, job_id, upload, key)


def record(
    database: Database,
    storage: Storage,
    settings: Settings,
    fence: Fence,
    job_id: str,
    upload: UploadMetadata,
    key: str,
) -> PublishedArtifact:
    """Name a file that lies in the storage, under its key, as what was announced; what stood there before goes.

    Raises:
        NotFound, StaleAttempt, InsufficientStorage, PayloadTooLarge: it may not be; it is removed.
    """
    try:
        with database.transaction() as session:
            attempt, now = running_attempt(session, fence), session.now()
            query = select(Artifact).where(Artifact.job_id == job_id, Artifact.name == upload.name)
            artifact = session.scalar(query)
            sha256 = upload.sha256.hex()
            repeated = artifact is not None and artifact.sha256 == sha256
            if artifact is None:
                _check_file_count(session, job_id)
                artifact = Artifact(job_id=job_id, name=upload.name)
                session.add(artifact)
            else:
                session.after_commit(partial(storage.delete, artifact.path))
            artifact.attempt_id = attempt.id
            artifact.kind, artifact.step = upload.kind, upload.step
            artifact.size, artifact.sha256, artifact.path = upload.size, sha256, key
            artifact.created_at = now
            session.flush()
            if upload.kind == "checkpoint":
                trim(session, storage, job_id)
            capacity.check_totals(session, settings, job_id)
            return PublishedArtifact(as_wire(artifact, attempt.number), new=not repeated)
    except (ApiError, SQLAlchemyError) as error:
        # What was refused, or found the database's disk full, is surely not committed: its bytes would fill the disk
        # with every repetition. After any other error the row may stand: then only the sweep can tell.
        if isinstance(error, ApiError) or infrastructure_errors.database_outage(error) == "full":
            storage.delete(key)
        raise


def _check_file_count(session: Session, job_id: str) -> None:
    count = session.scalars(select(func.count()).where(Artifact.job_id == job_id)).one()
    if count >= MAX_FILES:
        raise PayloadTooLarge(f"the job has {count} files already", remedy="Bring the next under a name that it has.")


def digest_of(header: str, value: str | None) -> bytes:
    """The sha-256 of a digest header (RFC 9530), which may name other digests too."""
    found = _SHA256.search(value or "")
    if found is None:
        raise BadRequest(
            "the upload names no sha-256 of its bytes",
            remedy=f"Send `{header}: sha-256=:<base64 of the 32 bytes>:` (RFC 9530).",
        )
    return base64.b64decode(found[1])


@contextmanager
def _disk_full_as_problem() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not infrastructure_errors.is_disk_full(error):
            raise
        raise InsufficientStorage(
            "the disk of the artifacts is full", remedy="Free space in CROSSKD_STORAGE, then send the file again."
        ) from error
