"""`GET /audit`: whether the database and the storage agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from starlette.concurrency import iterate_in_threadpool

from api.database import DatabaseDep
from api.http.representations import PLAIN, negotiate
from api.http.streams import Streams, TextResponse, streams_of
from api.http.transactional import Transactional
from api.services.files.audit import Audit
from api.storage import StorageDep
from wire.audit import MEDIA_TYPE

router = APIRouter(tags=["system"], route_class=Transactional)

_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A JSON object a line: findings, signs of life, and a summary at the end.",
        "content": {media_type: {"schema": {"type": "string"}} for media_type in (MEDIA_TYPE, PLAIN)},
    }
}


@router.get("/audit", response_class=Response, responses=_LINES)
async def stream_audit(
    database: DatabaseDep,
    storage: StorageDep,
    streams: Annotated[Streams, Depends(streams_of)],
    verify: Annotated[bool, Query(description="Read every file, and compare its sha256.")] = False,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Rows without their file, files without a row, and those that differ: each as it is found, then a summary.

    It may take long, and says how far it is every few seconds. An answer that ends without a summary has broken off.
    As plain text it has the same lines.
    """
    media_type = negotiate(accept, (MEDIA_TYPE, PLAIN))
    audit = Audit(database, storage, verify=verify, stopped=streams.closing.is_set)
    return TextResponse(streams, iterate_in_threadpool(_lines(audit)), {"Content-Type": media_type})


def _lines(audit: Audit) -> Iterator[str]:
    for line in audit.lines():
        yield f"{line.model_dump_json(exclude_none=True)}\n"
