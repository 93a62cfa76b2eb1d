"""`/worker/attempts/{attempt}/artifacts/{name}`: a worker hands in a file.

PUT brings it whole. If that breaks off, HEAD tells how many bytes have arrived, and PATCH brings the rest (the names of
the headers are those of draft-ietf-httpbis-resumable-upload).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.requests import ClientDisconnect

from api.auth import Fence, FenceDep, WorkerDep
from api.database import DatabaseDep
from api.errors import BadRequest, PayloadTooLarge, Unavailable
from api.http.transactional import Transactional
from api.services.files import uploads
from api.services.files.uploads import PublishedArtifact, StalledUpload, UploadMetadata
from api.storage import StorageDep
from wire.artifacts import LENGTH_HEADER, OFFSET_HEADER, Artifact, ArtifactKind, ArtifactName

router = APIRouter(
    prefix="/worker/attempts/{attempt}", tags=["worker"], dependencies=[WorkerDep], route_class=Transactional
)


def _digest(name: str, of: str) -> dict[str, Any]:
    """The description of a header that must come; FastAPI would answer 422 for one that is missing, it is told 400."""
    form = {"type": "string", "pattern": "^sha-256=:[A-Za-z0-9+/]{43}=:$"}
    description = f"Of {of}: `sha-256=:<base64>:` (RFC 9530)."
    return {
        "parameters": [{"name": name, "in": "header", "required": True, "description": description, "schema": form}]
    }


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_ARRIVED: dict[str, Any] = {
    "description": "`Upload-Offset` bytes have arrived.",
    "headers": {OFFSET_HEADER: {"schema": {"type": "integer"}}},
}
_RESUME_HINT = "HEAD tells how many bytes have arrived; send the rest with PATCH."
Step = Annotated[int | None, Query(ge=0, le=2**53)]
Bytes = Annotated[int, Header(alias=LENGTH_HEADER, ge=0, le=10**18, description="Of the whole file.")]
# No client sets it by hand, and no description can make one leave it out.
ContentLength = Annotated[str | None, Header(include_in_schema=False)]
ContentDigest = Annotated[str | None, Header(include_in_schema=False)]
ReprDigest = Annotated[str | None, Header(include_in_schema=False)]


_REPEATED: dict[str, Any] = {"model": Artifact, "description": "These very bytes stood under the name already."}


@router.put(
    "/artifacts/{name}",
    status_code=201,
    responses={200: _REPEATED},
    openapi_extra=_BODY | _digest("Content-Digest", "the body"),
)
async def upload_artifact(
    name: ArtifactName,
    request: Request,
    response: Response,
    fence: FenceDep,
    database: DatabaseDep,
    storage: StorageDep,
    kind: Annotated[ArtifactKind | None, Query(description="What it is; default: as its name tells.")] = None,
    step: Annotated[Step, Query(description="The optimizer step it was made at; default: as its name tells.")] = None,
    content_length: ContentLength = None,
    content_digest: ContentDigest = None,
) -> Artifact:
    """Publish the body under `name`, replacing what stood there: 201, or 200 if these very bytes did.

    The file appears whole or not at all.
    """
    upload = uploads.parse_headers(name, kind, step, content_length, content_digest)
    published = await _receive(request, database, storage, fence, upload)
    assert isinstance(published, PublishedArtifact)  # nothing of a file that comes whole is left to come
    if not published.new:
        response.status_code = 200
    return published.artifact


@router.patch(
    "/artifacts/{name}",
    status_code=201,
    openapi_extra=_BODY | _digest("Repr-Digest", "the whole file"),
    responses={
        200: _REPEATED,
        204: _ARRIVED,
        409: _ARRIVED | {"description": "A stale attempt; or `Upload-Offset` is the right one."},
    },
)
async def continue_artifact(
    name: ArtifactName,
    request: Request,
    response: Response,
    fence: FenceDep,
    database: DatabaseDep,
    storage: StorageDep,
    offset: Annotated[int, Header(alias=OFFSET_HEADER, ge=0, le=10**18, description="Where the body begins.")],
    size: Bytes,
    kind: Annotated[ArtifactKind | None, Query(description="What it is; default: as its name tells.")] = None,
    step: Annotated[Step, Query(description="The optimizer step it was made at; default: as its name tells.")] = None,
    content_length: ContentLength = None,
    repr_digest: ReprDigest = None,
) -> Any:
    """Go on with an upload: the body is what follows the bytes that have arrived. Answers like PUT once all are there.

    A part of what is missing is taken too, with 204. A body that begins elsewhere gets 409 with the right offset.
    """
    upload = uploads.parse_headers(name, kind, step, content_length, repr_digest, "Repr-Digest")
    found = await _receive(request, database, storage, fence, uploads.resume_at(upload, offset, size))
    if isinstance(found, int):
        return Response(status_code=204, headers={OFFSET_HEADER: str(found)})
    if not found.new:
        response.status_code = 200
    return found.artifact


@router.head(
    "/artifacts/{name}",
    responses={200: _ARRIVED},
    response_class=Response,
    openapi_extra=_digest("Repr-Digest", "the whole file"),
)
def look_up_upload(
    name: ArtifactName,
    fence: FenceDep,
    database: DatabaseDep,
    storage: StorageDep,
    size: Bytes,
    repr_digest: ReprDigest = None,
) -> Response:
    """How many bytes of a file have arrived: all of them once it is published."""
    digest = uploads.digest_of("Repr-Digest", repr_digest)
    offset = uploads.received_bytes(database, storage, fence, name, size, digest)
    return Response(headers={OFFSET_HEADER: str(offset), LENGTH_HEADER: str(size), "Cache-Control": "no-store"})


def within_limit(request: Request, upload: UploadMetadata) -> UploadMetadata:
    """Raises `PayloadTooLarge` for a file that is."""
    if upload.size > (limit := request.app.state.settings.upload_limit):
        raise PayloadTooLarge(f"the file is larger than {limit} bytes", remedy="CROSSKD_UPLOAD_LIMIT sets the bound.")
    return upload


async def _receive(
    request: Request, database: DatabaseDep, storage: StorageDep, fence: Fence, upload: UploadMetadata
) -> PublishedArtifact | int:
    within_limit(request, upload)
    settings = request.app.state.settings
    try:
        return await uploads.receive(database, storage, settings, fence, upload, request.stream())
    except ClientDisconnect:  # nobody hears it
        raise BadRequest("the upload broke off", remedy=_RESUME_HINT) from None
    except StalledUpload:  # a sender that comes to itself again must not take it for the last word
        raise Unavailable("nothing more of the upload came", remedy=_RESUME_HINT) from None
