"""Parts of a file to the storage itself, at the addresses of the API's plan."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import httpx

from wire.storage import send_to_storage
from wire.uploads import UploadPart
from worker.deliver.digest import CHUNK

SLOWEST = 1_000_000  # bytes a second that a storage is given time for, to answer once it has them all

Chunks = Callable[[int, int], Generator[bytes]]  # (offset, size) of a part of the file


def checksums(path: Path, parts: list[UploadPart]) -> tuple[bytes, list[str]]:
    """The sha256 of a file, and the MD5 of each part in hex, of the very same bytes."""
    whole, found = hashlib.sha256(), []
    with path.open("rb") as file:
        for part in parts:
            md5 = hashlib.md5(usedforsecurity=False)
            left = part.size
            while left and (chunk := file.read(min(CHUNK, left))):
                whole.update(chunk)
                md5.update(chunk)
                left -= len(chunk)
            found.append(md5.hexdigest())
        whole.update(file.read(1))  # longer than was announced: then it is another file
    return whole.digest(), found


def send(http: httpx.Client, part: UploadPart, name: str, md5: str, chunks: Chunks) -> None:
    """Bring one part of the file `name` to its address. The storage refuses bytes of another MD5.

    Raises:
        httpx.TransportError: it did not get there.
        StorageRefused: it was refused; another plan has another address.
    """
    headers = {
        "Content-Length": str(part.size),
        "Content-MD5": base64.b64encode(bytes.fromhex(md5)).decode(),
        "Content-Type": "application/octet-stream",
        # The only part of a file becomes the file, with what is said of it here.
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    with closing(chunks(part.offset, part.size)) as body:
        request = httpx.Request("PUT", part.url, headers=headers, content=body)
        timeout = httpx.Timeout(30.0, connect=5.0, read=30.0 + part.size / SLOWEST)
        with send_to_storage(http, request, timeout) as response:
            response.read()
