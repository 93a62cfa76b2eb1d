"""Uploads: a body of any size, staged, verified by its digest, and published under its name in one step."""

from __future__ import annotations

import base64
import errno
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from anyio.to_thread import run_sync
from sqlalchemy import select

from api.auth import Fence
from api.database import Database, Session
from api.errors import ApiError, BadRequest, InsufficientStorage, LengthRequired, invalid_query
from api.models import Artifact, Job, new_id
from api.schemas import artifacts as wire
from api.services.artifacts import as_wire, newest_checkpoints
from api.services.fencing import live
from api.storage import Staged, Storage

WRITE_SIZE = 1 << 20  # bytes: chunks off the network are smaller, and each write costs a hop to a thread
_SHA256 = re.compile(r"(?:^|,)[ \t]*sha-256=:([A-Za-z0-9+/]{43}=):[ \t]*(?:;[^,]*)?(?=,|$)")
_CHECKPOINT = re.compile(r"checkpoint-(\d{8,15})\.pt")
_KINDS: dict[str, wire.ArtifactKind] = {
    wire.BEST_WEIGHTS: "weights",
    wire.LAST_WEIGHTS: "weights",
    wire.LOG: "log",
    wire.MANIFEST: "manifest",
}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Announced(NamedTuple):
    """What the request says of its body before the first byte of it."""

    name: str
    kind: wire.ArtifactKind
    step: int | None
    size: int
    sha256: bytes


class Published(NamedTuple):
    artifact: wire.Artifact
    new: bool  # False: these very bytes stood under this name already


def announce(
    name: str, kind: wire.ArtifactKind | None, step: int | None, content_length: str | None, content_digest: str | None
) -> Announced:
    """Check the head of an upload. `kind` and `step` follow from the names that the core gives its files.

    Raises:
        LengthRequired, BadRequest: without a length, or without a sha-256 to hold the body against.
        InvalidSpec: neither query nor name tells the kind, or a checkpoint's step.
    """
    if content_length is None or not re.fullmatch(r"[0-9]{1,18}", content_length):
        raise LengthRequired("the upload does not say its size", remedy="Send Content-Length, not chunks.")
    checkpoint = _CHECKPOINT.fullmatch(name)
    kind = kind or ("checkpoint" if checkpoint else _KINDS.get(name))
    if kind is None:
        raise invalid_query(
            "kind", f"the name {name!r} tells no kind", "Add ?kind=checkpoint, weights, log or manifest."
        )
    if step is None and checkpoint:
        step = int(checkpoint[1])
    if step is None and kind == "checkpoint":
        raise invalid_query("step", "a checkpoint needs its step", "Add ?step=.")
    return Announced(name, kind, step, int(content_length), _sha256(content_digest))


async def receive(
    database: Database, storage: Storage, fence: Fence, announced: Announced, body: AsyncIterator[bytes]
) -> Published:
    """Take the body in and publish it, or leave nothing behind. Disk and database work runs in threads.

    Raises:
        NotFound, Stale: the attempt is not there, or no longer its job's; also if it was given up meanwhile.
        BadRequest: the body is not what was announced.
        InsufficientStorage: the disk is full.
    """
    job_id = await run_sync(_admit, database, fence)
    with _disk():
        staged = await run_sync(storage.stage)
        with staged:
            await _stage(staged, announced, body)
            return await run_sync(_publish, database, storage, fence, job_id, announced, staged)


async def _stage(staged: Staged, announced: Announced, body: AsyncIterator[bytes]) -> None:
    waiting: list[bytes] = []
    held = 0
    async for chunk in body:
        waiting.append(chunk)
        held += len(chunk)
        if staged.size + held > announced.size:
            break  # refused below
        if held >= WRITE_SIZE:
            await run_sync(staged.write, b"".join(waiting))
            waiting, held = [], 0
    if staged.size + held != announced.size:
        raise BadRequest(
            f"the body has {staged.size + held} bytes or more, Content-Length said {announced.size}",
            remedy="Send the whole file again.",
        )
    await run_sync(staged.write, b"".join(waiting))
    if staged.sha256() != announced.sha256:
        raise BadRequest("the bytes that came are not those of Content-Digest", remedy="Send the whole file again.")


def _admit(database: Database, fence: Fence) -> str:
    """The job of a live attempt. It is asked before the body is read, and again when that is published."""
    with database.reading() as session:
        return live(session, fence, lock=False).job_id


def _publish(
    database: Database, storage: Storage, fence: Fence, job_id: str, announced: Announced, staged: Staged
) -> Published:
    key = f"{job_id}/{new_id()}-{announced.name}"
    # Outside of the transaction: to sync a large file takes seconds, and SQLite has one writer at a time.
    storage.publish(staged, key)
    try:
        with database.transaction() as session:
            attempt, now = live(session, fence), session.now()
            query = select(Artifact).where(Artifact.job_id == job_id, Artifact.name == announced.name)
            artifact = session.scalar(query)
            sha256 = announced.sha256.hex()
            repeated = artifact is not None and artifact.sha256 == sha256
            if artifact is None:
                artifact = Artifact(job_id=job_id, name=announced.name)
                session.add(artifact)
            else:
                session.after_commit(partial(storage.delete, artifact.path))
            artifact.attempt_id = attempt.id
            artifact.kind, artifact.step = announced.kind, announced.step
            artifact.size, artifact.sha256, artifact.path = announced.size, sha256, key
            artifact.created_at = now
            session.flush()
            if announced.kind == "checkpoint":
                _prune(session, storage, job_id)
            return Published(as_wire(artifact, attempt.number), new=not repeated)
    except ApiError:
        # Refused, so surely not committed. After any other error the row may stand: then only the sweep can tell.
        storage.delete(key)
        raise


def _prune(session: Session, storage: Storage, job_id: str) -> None:
    """Drop the job's older checkpoints beyond `checkpoint.keep_last`; their files go after the commit."""
    spec = session.scalars(select(Job.spec).where(Job.id == job_id)).one()
    for old in session.scalars(newest_checkpoints(job_id).offset(spec["checkpoint"]["keep_last"])):
        session.delete(old)
        session.after_commit(partial(storage.delete, old.path))


def _sha256(content_digest: str | None) -> bytes:
    """The sha-256 of a Content-Digest (RFC 9530), which may name other digests too."""
    found = _SHA256.search(content_digest or "")
    if found is None:
        raise BadRequest(
            "the upload names no sha-256 of its body",
            remedy="Send `Content-Digest: sha-256=:<base64 of the 32 bytes>:` (RFC 9530).",
        )
    return base64.b64decode(found[1])


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InsufficientStorage(
            "the disk of the artifacts is full", remedy="Free space in CROSSKD_STORAGE, then send the file again."
        ) from error
