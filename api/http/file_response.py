"""A file as an answer: whole, a part of it, where the storage gives it, or the news that the client has it already.

Starlette's FileResponse is not used: it opens its file by name after the headers are sent, when a newer upload
may have replaced it, and it answers 400 to ranges that RFC 9110 has a server ignore.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from typing import BinaryIO

from anyio.to_thread import run_sync
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.services.files.artifacts import ArtifactRedirect, OpenArtifact
from api.services.files.conditional import Part, select
from wire.artifacts import Artifact

CHUNK = 1 << 18  # bytes in memory per download: what stays in a core's cache goes twice as fast as more
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)  # only Linux has it
_MEDIA_TYPES = {".txt": "text/plain; charset=utf-8", ".json": "application/json"}


class FileResponse(StreamingResponse):
    """Sends `part` of an open file in constant memory, then closes it."""

    def __init__(self, file: BinaryIO, part: Part, headers: dict[str, str], media_type: str) -> None:
        super().__init__(self._chunks(), part.status, headers, media_type)
        self._file = file
        self._part = part

    async def _chunks(self) -> AsyncIterator[bytes]:
        place = self._part.start
        while place < self._part.stop:
            size = min(CHUNK, self._part.stop - place)
            chunk = self._read_cached(place, size) or await run_sync(self._read, place, size)
            if not chunk:
                raise OSError("the stored file was cut short while it was sent")
            place += len(chunk)
            yield chunk

    def _read_cached(self, place: int, size: int) -> bytes:
        """What the system has in memory, read here and now: a thread would take longer. Empty if it has nothing."""
        if not _NOWAIT:
            return b""
        buffer = bytearray(size)
        try:
            count = os.preadv(self._file.fileno(), [buffer], place, _NOWAIT)
        except OSError:  # it would have to wait for the disk, or the file's system cannot tell
            return b""
        return bytes(memoryview(buffer)[:count])

    def _read(self, place: int, size: int) -> bytes:
        self._file.seek(place)
        return self._file.read(size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def artifact_response(request: Request, found: OpenArtifact | ArtifactRedirect) -> Response:
    """Answer a GET or HEAD with the artifact, or with where it is to be had."""
    return _redirect(request, *found) if isinstance(found, ArtifactRedirect) else file_response(request, found)


def file_response(request: Request, opened: OpenArtifact) -> FileResponse:
    """Answer a GET or HEAD with the artifact, by the request's preconditions and range. Closes it in any case."""
    artifact, file = opened
    try:
        part = select(request.method, request.headers, _etag(artifact), artifact.size)
    except BaseException:
        file.close()
        raise
    headers = _headers(artifact, part)
    if request.method == "HEAD":
        part = Part(part.status, 0, 0)
    return FileResponse(file, part, headers, _media_type(artifact))


def _redirect(request: Request, artifact: Artifact, url: str) -> Response:
    """What can be answered without the bytes is answered here; for them, the storage's address with their digest.

    A client takes its Range along. Its If-Range would tell the storage nothing, which has a tag of its own: it is
    this answer's ETag that a part already there has to be compared with.
    """
    part = select(request.method, request.headers, _etag(artifact), artifact.size)
    headers = _headers(artifact, part)
    if part.status == 304 or request.method == "HEAD":
        return Response(None, part.status, headers, None if part.status == 304 else _media_type(artifact))
    told = {name: headers[name] for name in ("ETag", "Repr-Digest")}
    # The address is a key to the file for as long as it is good for: no cache may keep it.
    return Response(None, 307, told | {"Location": url, "Cache-Control": "no-store"})


def _etag(artifact: Artifact) -> str:
    return f'"{artifact.sha256}"'


def _media_type(artifact: Artifact) -> str:
    suffix = artifact.name[artifact.name.rfind(".") :]
    return _MEDIA_TYPES.get(suffix, "application/octet-stream")


def _headers(artifact: Artifact, part: Part) -> dict[str, str]:
    headers = {
        "ETag": _etag(artifact),
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
    return headers
