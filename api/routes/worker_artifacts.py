"""`PUT /worker/attempts/{attempt}/artifacts/{name}`: a worker hands in a file."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.requests import ClientDisconnect

from api.auth import FenceDep, WorkerDep
from api.database import DatabaseDep
from api.errors import BadRequest
from api.schemas.artifacts import Artifact, ArtifactKind, ArtifactName
from api.services import uploads
from api.storage import StorageDep

router = APIRouter(prefix="/worker/attempts/{attempt}", tags=["worker"], dependencies=[WorkerDep])

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put("/artifacts/{name}", status_code=201, openapi_extra=_BODY)
async def upload_artifact(
    name: ArtifactName,
    request: Request,
    response: Response,
    fence: FenceDep,
    database: DatabaseDep,
    storage: StorageDep,
    kind: ArtifactKind | None = None,
    step: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    content_length: Annotated[str | None, Header()] = None,
    content_digest: Annotated[str | None, Header(description="`sha-256=:<base64>:` (RFC 9530).")] = None,
) -> Artifact:
    """Publish the body under `name`, replacing what stood there: 201, or 200 if these very bytes did.

    The file appears whole or not at all.
    """
    announced = uploads.announce(name, kind, step, content_length, content_digest)
    try:
        published = await uploads.receive(database, storage, fence, announced, request.stream())
    except ClientDisconnect:
        raise BadRequest("the upload broke off", remedy="Send the whole file again.") from None
    if not published.new:
        response.status_code = 200
    return published.artifact
