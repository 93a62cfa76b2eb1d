"""Uploads that go to the storage without this process in between: a plan, and the publication.

The part's name is that of an upload through the API (`uploads.part_name`): it holds the attempt, so what a former
attempt's worker still sends changes nothing of what this one publishes.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from anyio.to_thread import run_sync

from api.auth import Fence
from api.database import Database
from api.errors import BadRequest, DigestMismatch, WrongOffset
from api.models import new_id
from api.services.files import capacity
from api.services.files.artifacts import as_wire
from api.services.files.uploads import PublishedArtifact, UploadMetadata, find_published, record
from api.services.jobs.fencing import running_attempt
from api.settings import Settings
from api.storage import CorruptUpload, DirectUploads, IncompleteUpload, Storage
from api.stores.threads import PUBLISHING, STAGING
from wire import uploads as wire

log = logging.getLogger(__name__)


async def plan(
    database: Database, storage: Storage, settings: Settings, fence: Fence, upload: UploadMetadata
) -> wire.UploadPlan:
    """Where a file goes, and what of it has arrived.

    Raises:
        NotFound, StaleAttempt: the attempt is not there, or no longer its job's.
        InsufficientStorage: as many bytes are stored as may be.
        Unavailable: too many wait for the storage already.
    """
    admitted = await run_sync(_admit, database, settings, fence, upload)
    if storage.direct_uploads is None:
        return wire.UploadPlan(through="api")
    published = isinstance(admitted, PublishedArtifact)
    presign = storage.direct_uploads.presigned_parts
    presigned = await STAGING.run_if_soon(presign, upload.part(fence.attempt), upload.size)
    parts = [
        wire.UploadPart(url=part.url, offset=part.offset, size=part.size, arrived=part.arrived or published)
        for part in presigned
    ]
    expires = datetime.now(UTC) + timedelta(seconds=settings.storage_link_seconds)
    return wire.UploadPlan(through="storage", parts=parts, expires_at=expires)


async def commit(
    database: Database,
    storage: Storage,
    settings: Settings,
    fence: Fence,
    upload: UploadMetadata,
    checksums: list[bytes],
) -> PublishedArtifact:
    """Publish what was sent to the storage.

    Raises:
        NotFound, StaleAttempt: the attempt is not there, or no longer its job's; also if it was given up meanwhile.
        WrongOffset: not everything has arrived.
        DigestMismatch: what has arrived is not what was announced; it is forgotten.
        InsufficientStorage: as many bytes are stored as may be.
        Unavailable: too many wait for the storage already.
    """
    admitted = await run_sync(_admit, database, settings, fence, upload)
    if isinstance(admitted, PublishedArtifact):
        return admitted
    key = f"{admitted}/{new_id()}-{upload.name}"
    direct_uploads = _direct_uploads(storage)
    await PUBLISHING.run_if_soon(_publish, direct_uploads, fence, upload, checksums, key)
    published = await run_sync(record, database, storage, settings, fence, admitted, upload, key)
    await STAGING.run(_discard_parts, direct_uploads, fence, upload)
    return published


def _publish(
    direct_uploads: DirectUploads, fence: Fence, upload: UploadMetadata, checksums: list[bytes], key: str
) -> None:
    part = upload.part(fence.attempt)
    try:
        direct_uploads.publish(part, upload.size, upload.sha256, checksums, key)
    except IncompleteUpload as incomplete:
        raise WrongOffset(
            f"what follows byte {incomplete.offset} of the file has not arrived in the storage",
            remedy="Ask for the plan again, and send the parts that have not arrived.",
            offset=incomplete.offset,
        ) from None
    except CorruptUpload as corrupt:
        direct_uploads.discard(part, upload.size)
        raise DigestMismatch(
            f"what arrived in the storage is not what was announced: {corrupt}", remedy="Send the whole file again."
        ) from None


def _discard_parts(direct_uploads: DirectUploads, fence: Fence, upload: UploadMetadata) -> None:
    try:
        direct_uploads.discard(upload.part(fence.attempt), upload.size)
    except OSError as error:  # the sweep will
        log.warning("the parts of %s are left in the storage: %s", upload.name, error)


def _admit(database: Database, settings: Settings, fence: Fence, upload: UploadMetadata) -> str | PublishedArtifact:
    """The job of a live attempt; or the artifact, if these very bytes stand there already."""
    with database.reading() as session:
        attempt = running_attempt(session, fence, lock=False)
        artifact = find_published(session, attempt, upload.name, upload.sha256)
        if artifact is not None:
            return PublishedArtifact(as_wire(artifact, attempt.number), new=False)
        capacity.admit(session, settings, attempt.job_id, upload.name, upload.kind, upload.size)
        return attempt.job_id


def _direct_uploads(storage: Storage) -> DirectUploads:
    if storage.direct_uploads is None:
        raise BadRequest("files come to this API alone", remedy="Send the file by PUT.")
    return storage.direct_uploads
