"""One verified download: streamed to a part file, resumed by Range, renamed into place when its sha256 is right."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from client.errors import DownloadError

OnBytes = Callable[[int, int], None]  # (bytes here, bytes in all)

RETRY_PAUSE = 0.5


def fetch(
    http: httpx.Client,
    path: str,
    head: httpx.Response,
    target: Path,
    *,
    patience: float,
    on_bytes: OnBytes | None = None,
) -> Path:
    """Bring `path` to the file `target`. `head` is the answer to HEAD: it announces size and digest.

    The part file's name carries the digest, so a later call finds what an earlier one left behind, and bytes of
    two versions never mix. Raises: `DownloadError`.
    """
    sha256, size = announced(head)
    part = target.with_name(f".{target.name}.{sha256[:16]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fill(http, path, part, sha256, size, patience, on_bytes)
        _verify(part, sha256)
        part.replace(target)
    except OSError as error:
        raise DownloadError(f"Cannot store {target}: {error.strerror or error}.") from error
    return target


def announced(head: httpx.Response) -> tuple[str, int]:
    """(sha256 in hex, bytes) that an answer announces by Repr-Digest (RFC 9530) or by its ETag."""
    digest = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", head.headers.get("repr-digest", ""))
    etag = re.fullmatch(r'"([0-9a-f]{64})"', head.headers.get("etag", ""))
    size = head.headers.get("content-length", "")
    try:
        sha256 = base64.b64decode(digest[1], validate=True).hex() if digest else etag[1] if etag else ""
    except binascii.Error:
        sha256 = ""
    if len(sha256) != 64 or not size.isdigit():
        raise DownloadError(f"{head.request.url} announces no sha256 and size, so it cannot be verified.")
    return sha256, int(size)


def _fill(
    http: httpx.Client, path: str, part: Path, sha256: str, size: int, patience: float, on_bytes: OnBytes | None
) -> None:
    """Append to `part` until it is whole; a broken connection is taken up again while bytes keep coming."""
    deadline = time.monotonic() + patience
    while (here := part.stat().st_size if part.exists() else 0) < size or not part.exists():
        try:
            _stream(http, path, part, here, sha256, size, on_bytes)
        except httpx.TransportError as error:
            if part.exists() and part.stat().st_size > here:
                deadline = time.monotonic() + patience
            if time.monotonic() > deadline:
                raise DownloadError(
                    f"The download of {path} broke off ({error or type(error).__name__}).",
                    remedy="Run the same command again: it goes on where it stopped.",
                ) from error
            time.sleep(RETRY_PAUSE)


def _stream(
    http: httpx.Client, path: str, part: Path, here: int, sha256: str, size: int, on_bytes: OnBytes | None
) -> None:
    # identity: a compressed transfer would have other bytes than the digest is of.
    headers = {"accept-encoding": "identity"}
    if here:
        headers |= {"range": f"bytes={here}-", "if-range": f'"{sha256}"'}
    with _answer(http, path, headers, f'"{sha256}"') as response:
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # no better than no answer
            raise httpx.RemoteProtocolError("the service is away")
        if not response.is_success:
            raise DownloadError(f"{path} answered {response.status_code} {response.reason_phrase} in mid-download.")
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        with part.open("ab" if resumed else "wb") as file:
            done = here if resumed else 0
            for chunk in response.iter_raw():
                file.write(chunk)
                done += len(chunk)
                if on_bytes is not None:
                    on_bytes(done, size)
                if done > size:
                    break
            file.flush()
            os.fsync(file.fileno())
    if done < size:
        raise httpx.RemoteProtocolError(f"{done} of {size} bytes came")


@contextmanager
def _answer(http: httpx.Client, path: str, headers: dict[str, str], etag: str) -> Iterator[httpx.Response]:
    """The service's answer, or that of the storage which it names. Raises `TransportError` if that refuses."""
    with http.stream("GET", path, headers=headers, follow_redirects=False) as told:
        if not (told.is_redirect and "repr-digest" in told.headers):
            yield told
            return
        location = told.url.join(told.headers["location"])
        current = told.headers.get("etag") == etag
    # The address is the permission: our connections and none of our headers, which hold the token. The storage has a
    # tag of its own, so it is the service's that tells whether what is here already goes with it.
    passed = ("accept-encoding", "range") if current else ("accept-encoding",)
    request = httpx.Request("GET", location, headers={name: headers[name] for name in passed if name in headers})
    request.extensions["timeout"] = http.timeout.as_dict()
    response = http.send(request, stream=True, auth=None, follow_redirects=False)
    with closing(response):
        if not response.is_success:
            raise httpx.RemoteProtocolError(f"the storage answered {response.status_code}")
        yield response


def _verify(part: Path, sha256: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise DownloadError(
            f"The bytes that came have sha256 {found}, not {sha256} as announced.", remedy="Download it again."
        )
