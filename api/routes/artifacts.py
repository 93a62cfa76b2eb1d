"""`/jobs/{id}/artifacts` and `/jobs/{id}/weights`: what a job has made, to read."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from api.database import DatabaseDep, ReadDep
from api.http.file_response import FileResponse, artifact_response
from api.http.transactional import Transactional
from api.services.files import artifacts
from api.storage import StorageDep
from wire.artifacts import ArtifactList

router = APIRouter(prefix="/jobs/{job}", tags=["artifacts"], route_class=Transactional)

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BYTES = {"content": dict.fromkeys(("application/octet-stream", "application/json", "text/plain"), _BINARY)}
_DOWNLOAD: dict[str, Any] = {
    "response_class": FileResponse,
    "status_code": 200,  # FastAPI would look for it among the arguments of the class
    "response_description": "The file; `ETag` and `Repr-Digest` hold its sha256.",
    "responses": {
        200: _BYTES,
        206: {"description": "The part that `Range` asks for.", **_BYTES},
        304: {"description": "`If-None-Match` names the version that stands."},
        307: {"description": "The bytes lie in a bucket: `Location` gives them for a while, without a token."},
    },
}


@router.get("/artifacts")
def list_artifacts(job: str, session: ReadDep) -> ArtifactList:
    """The job's published files."""
    return artifacts.listing(session, job)


@router.head("/artifacts/{name}", include_in_schema=False, response_class=FileResponse)
@router.get("/artifacts/{name}", **_DOWNLOAD)
def download_artifact(job: str, name: str, request: Request, database: DatabaseDep, storage: StorageDep) -> Response:
    """A published file: HEAD, `Range`, `If-Range`, `If-Match` and `If-None-Match` are understood."""
    return artifact_response(request, artifacts.open_artifact(database, storage, job, name))


@router.head("/weights", include_in_schema=False, response_class=FileResponse)
@router.get("/weights", **_DOWNLOAD)
def download_weights(job: str, request: Request, database: DatabaseDep, storage: StorageDep) -> Response:
    """The best student so far, alone, as safetensors."""
    return artifact_response(request, artifacts.open_weights(database, storage, job))
