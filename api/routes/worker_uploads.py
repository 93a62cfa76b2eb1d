"""`/worker/attempts/{attempt}/uploads/{name}`: a worker brings a file to the storage by itself."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.auth import FenceDep, WorkerDep
from api.database import DatabaseDep
from api.errors import invalid_body
from api.http.transactional import Transactional
from api.routes.worker_artifacts import within_limit
from api.services.files import direct_uploads, uploads
from api.services.files.uploads import UploadMetadata
from api.storage import StorageDep
from wire.artifacts import Artifact, ArtifactName
from wire.uploads import UploadCommit, UploadPlan, UploadRequest

router = APIRouter(
    prefix="/worker/attempts/{attempt}", tags=["worker"], dependencies=[WorkerDep], route_class=Transactional
)


@router.post("/uploads/{name}")
async def plan_upload(
    name: ArtifactName,
    body: UploadRequest,
    request: Request,
    fence: FenceDep,
    database: DatabaseDep,
    storage: StorageDep,
) -> UploadPlan:
    """Where the file goes, and which parts of it have arrived: asked again, it tells how to go on."""
    upload = _upload_metadata(request, name, body)
    return await direct_uploads.plan(database, storage, request.app.state.settings, fence, upload)


@router.put(
    "/uploads/{name}",
    status_code=201,
    responses={
        200: {"model": Artifact, "description": "These very bytes stood under the name already."},
        409: {"description": "A stale attempt; or not all parts have arrived: ask for the plan."},
    },
)
async def commit_upload(
    name: ArtifactName,
    body: UploadCommit,
    request: Request,
    response: Response,
    fence: FenceDep,
    database: DatabaseDep,
    storage: StorageDep,
) -> Artifact:
    """Publish the parts under `name`, replacing what stood there: 201, or 200 if these very bytes did.

    Size and checksum of what arrived are checked; the file appears whole or not at all.
    """
    upload = _upload_metadata(request, name, body)
    checksums = [bytes.fromhex(md5) for md5 in body.md5]
    settings = request.app.state.settings
    published = await direct_uploads.commit(database, storage, settings, fence, upload, checksums)
    if not published.new:
        response.status_code = 200
    return published.artifact


def _upload_metadata(request: Request, name: str, body: UploadRequest) -> UploadMetadata:
    kind, step = uploads.kind_and_step(name, body.kind, body.step, invalid_body)
    return within_limit(
        request, UploadMetadata(name, kind, step, body.size, bytes.fromhex(body.sha256), offset=0, length=body.size)
    )
