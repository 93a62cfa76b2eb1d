"""Files between a worker and the storage itself, at addresses that the API gives out.

Such an address is the permission: nothing that identifies us to the API is sent there, and it is never logged.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import httpx

from wire.uploads import UploadPart
from worker.deliver.digest import CHUNK

ADDRESS = "Location"
DIGEST = "Repr-Digest"  # an answer that has both says where the bytes lie, and which they are
SLOWEST = 1_000_000  # bytes a second that a storage is given time for, to answer once it has them all

_PASSING = frozenset({408, 429})
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,60})</Code>")
_PROXIES = 5  # redirects that are followed before the API itself answers

Chunks = Callable[[int, int], Generator[bytes]]  # (offset, size) of a part of the file


class StorageRefused(httpx.TransportError):
    """The storage understood and said no. At another address it may say yes: each is good for a while only."""


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
        with _sent(http, request, part.size / SLOWEST) as response:
            response.read()


def read(http: httpx.Client, told: httpx.Response, have: int, etag: str) -> AbstractContextManager[httpx.Response]:
    """The bytes that an answer of the API says where to find, from byte `have` on if they are still those of `etag`.

    Raises:
        httpx.TransportError: the storage does not answer, or refuses.
    """
    headers = {"Accept-Encoding": "identity"}
    if have and told.headers.get("ETag") == etag:
        headers["Range"] = f"bytes={have}-"
    return _sent(http, httpx.Request("GET", told.url.join(told.headers[ADDRESS]), headers=headers), 0.0)


@contextmanager
def asked(http: httpx.Client, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The API's answer to a GET, with its body to come. What a proxy before it redirects, to https perhaps, is
    followed; where the API says that the bytes lie elsewhere, that is the answer.
    """
    request = http.build_request("GET", url, headers=headers)
    for _ in range(_PROXIES):
        with closing(http.send(request, stream=True, follow_redirects=False)) as response:
            if response.next_request is None or elsewhere(response):
                yield response
                return
            request = response.next_request  # without our token, if it is for another host
    raise httpx.RemoteProtocolError(f"redirected more than {_PROXIES} times")


def elsewhere(response: httpx.Response) -> bool:
    """Whether an answer of the API tells where in the storage the bytes are to be had."""
    return response.is_redirect and DIGEST in response.headers and ADDRESS in response.headers


@contextmanager
def _sent(http: httpx.Client, request: httpx.Request, patience: float) -> Iterator[httpx.Response]:
    # The client's connections, and none of its headers.
    request.extensions["timeout"] = httpx.Timeout(30.0, connect=5.0, read=30.0 + patience).as_dict()
    response = http.send(request, stream=True, auth=None, follow_redirects=False)
    with closing(response):
        if response.is_success:
            yield response
            return
        status = response.status_code
        # Of its body, which tells what was asked of whom, no more than the one word.
        code = _CODE.search(next(response.iter_bytes(4096), b""))
        answered = f"the storage answered {status}" + (f" ({code[1].decode()})" if code else "")
        if response.is_server_error or status in _PASSING:
            raise httpx.RemoteProtocolError(answered)
        raise StorageRefused(answered)
