"""One verified download: streamed to a part file, resumed by Range, renamed into place when its sha256 is right.

It lies with the wire because how a file is asked for, gone on with and verified is an agreement with the API, the same
for whoever asks. How long trouble is borne, and which error it becomes, is the caller's: `send_with_retries` is his.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from wire.storage import ADDRESS, DIGEST, redirects_to_storage, send_to_storage

OnBytes = Callable[[int, int], object]  # (bytes here, bytes in all)
# Calls what it is given, again while the trouble passes: `httpx.TransportError`, or an answer that is no success.
# It raises an error of its own for what does not pass.
SendWithRetries = Callable[[Callable[[], httpx.Response]], object]

_PROXIES = 5  # redirects that are followed before the API itself answers


class Replaced(Exception):
    """Under the address there are other bytes now than were announced."""


class Damaged(Exception):
    """Everything came, and it has the sha256 `found`, which is not the announced one."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found


def download(
    http: httpx.Client,
    url: str,
    target: Path,
    *,
    sha256: str,
    size: int,
    send_with_retries: SendWithRetries,
    on_bytes: OnBytes | None = None,
) -> None:
    """Fetch the file of `size` bytes and this `sha256`, in hex, from `url`, a path below the API's address.

    The part file's name carries the digest, so a later call goes on with what an earlier one left behind, and bytes
    of two versions never mix. `target` appears whole or not at all. Where the API names the storage, the bytes come
    from there. `on_bytes` is told after each piece, and may break off by an error of its own.

    Raises:
        Replaced, Damaged: nothing of what came is kept.
        OSError: it cannot be stored.
    """
    part = _part(target, sha256)
    try:
        if not part.exists() or arrived(target, sha256) < size:
            send_with_retries(lambda: _receive(http, url, part, arrived(target, sha256), sha256, size, on_bytes))
        _verify(part, sha256)
    except (Replaced, Damaged):
        part.unlink(missing_ok=True)  # nobody has the rest of it
        raise
    part.replace(target)


def arrived(target: Path, sha256: str) -> int:
    """Bytes of an unfinished download that are here, from this call or an earlier one."""
    part = _part(target, sha256)
    return part.stat().st_size if part.exists() else 0


def announced(answer: httpx.Response) -> str:
    """The sha256 in hex of the whole file that an answer is about, by its Repr-Digest (RFC 9530) or its ETag.

    Empty if it does not say.
    """
    digest = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", answer.headers.get(DIGEST, ""))
    etag = re.fullmatch(r'"([0-9a-f]{64})"', answer.headers.get("ETag", ""))
    try:
        sha256 = base64.b64decode(digest[1], validate=True).hex() if digest else etag[1] if etag else ""
    except binascii.Error:
        return ""
    return sha256 if len(sha256) == 64 else ""


def _part(target: Path, sha256: str) -> Path:
    return target.with_name(f".{target.name}.{sha256[:16]}.part")


def _receive(
    http: httpx.Client, url: str, part: Path, here: int, sha256: str, size: int, on_bytes: OnBytes | None
) -> httpx.Response:
    """One try to make `part`, of which there are `here` bytes, whole. The answer; read, if it is no success."""
    with _answer(http, url, here, sha256) as response:
        if not response.is_success:
            response.read()
            return response
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        with part.open("ab" if resumed else "wb") as file:
            done = here if resumed else 0
            for chunk in response.iter_bytes():
                file.write(chunk)
                done += len(chunk)
                if on_bytes is not None:
                    on_bytes(done, size)
                if done > size:
                    break
            file.flush()
            os.fsync(file.fileno())
    if done < size and "Content-Length" not in response.headers:  # by which httpx would have seen that it broke off
        raise httpx.RemoteProtocolError(f"{done} of {size} bytes came")
    return response


@contextmanager
def _answer(http: httpx.Client, url: str, here: int, sha256: str) -> Iterator[httpx.Response]:
    """The API's answer to a GET from byte `here` on, or that of the storage which it names; with its body to come.

    Raises: `Replaced` if it is about another file; `TransportError` if the storage refuses.
    """
    # identity: a compressed transfer would have other bytes than the digest is of.
    headers = {"Accept-Encoding": "identity"}
    part = {"Range": f"bytes={here}-"} if here else {}
    condition = {"If-Range": f'"{sha256}"'} if here else {}
    with _asked(http, url, headers | part | condition) as answer:
        # The API's word alone: the storage has a tag of its own.
        if (version := announced(answer)) and version != sha256:
            raise Replaced
        if not redirects_to_storage(answer):
            yield answer
            return
        address = answer.url.join(answer.headers[ADDRESS])
    request = httpx.Request("GET", address, headers=headers | part if version else headers)
    with send_to_storage(http, request, http.timeout) as answer:
        yield answer


@contextmanager
def _asked(http: httpx.Client, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The API's answer to a GET. What a proxy before it redirects, to https perhaps, is followed if `http` follows
    redirects; where the API says that the bytes lie elsewhere, that is the answer.
    """
    request = http.build_request("GET", url, headers=headers)
    for _ in range(_PROXIES):
        with closing(http.send(request, stream=True, follow_redirects=False)) as response:
            if response.next_request is None or redirects_to_storage(response) or not http.follow_redirects:
                yield response
                return
            request = response.next_request  # without our token, if it is for another host
    raise httpx.RemoteProtocolError(f"redirected more than {_PROXIES} times")


def _verify(part: Path, sha256: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise Damaged(found)
