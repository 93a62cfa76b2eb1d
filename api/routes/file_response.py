"""An open file as an answer: whole, a part of it, or the news that the client has it already.

Starlette's FileResponse is not used: it opens its file by name after the headers are sent, when a newer upload
may have replaced it, and it answers 400 to ranges that RFC 9110 has a server ignore.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import BinaryIO

from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.services.artifacts import Opened
from api.services.conditional import Part, select

CHUNK = 1 << 20  # bytes in memory per download
_MEDIA_TYPES = {".txt": "text/plain; charset=utf-8", ".json": "application/json"}


class FileResponse(StreamingResponse):
    """Sends `part` of an open file in constant memory, then closes it."""

    def __init__(self, file: BinaryIO, part: Part, headers: dict[str, str], media_type: str) -> None:
        super().__init__(self._chunks(), part.status, headers, media_type)
        self._file = file
        self._part = part

    async def _chunks(self) -> AsyncIterator[bytes]:
        left = self._part.stop - self._part.start
        self._file.seek(self._part.start)
        while left:
            chunk = await run_sync(self._file.read, min(CHUNK, left))
            if not chunk:
                raise OSError("the stored file was cut short while it was sent")
            left -= len(chunk)
            yield chunk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def file_response(request: Request, opened: Opened) -> FileResponse:
    """Answer a GET or HEAD with the artifact, by the request's preconditions and range. Closes it in any case."""
    artifact, file = opened
    etag = f'"{artifact.sha256}"'
    try:
        part = select(request.method, request.headers, etag, artifact.size)
    except BaseException:
        file.close()
        raise
    headers = {
        "ETag": etag,
        "Cache-Control": "no-cache",  # a name's bytes can be replaced; asking again with the tag costs nothing
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(artifact.sha256)).decode()}:",
    }
    if part.status != 304:
        headers["Content-Disposition"] = f'attachment; filename="{artifact.name}"'
        headers["Content-Length"] = str(part.stop - part.start)
        headers["X-Content-Type-Options"] = "nosniff"
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{artifact.size}"
    if request.method == "HEAD":
        part = Part(part.status, 0, 0)
    suffix = artifact.name[artifact.name.rfind(".") :]
    return FileResponse(file, part, headers, _MEDIA_TYPES.get(suffix, "application/octet-stream"))
