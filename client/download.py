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
from client.events import AWAY, retry_after

OnBytes = Callable[[int, int], None]  # (bytes here, bytes in all)

RETRY_PAUSE = 0.5
VERSIONS = 5  # of a file that are begun with: a running job replaces its best weights now and then


class _Away(httpx.TransportError):
    """The service, or a proxy before it, asks to come back after `wait` seconds."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"the service answered {response.status_code}")
        self.wait = retry_after(response)


class _Replaced(Exception):
    """Under the name there are other bytes now than were announced."""


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
    two versions never mix. What is replaced meanwhile is begun anew. Raises: `DownloadError`.
    """
    for _ in range(VERSIONS):
        try:
            return _bring(http, path, head, target, patience, on_bytes)
        except _Replaced:
            head = _head(http, path, patience)
    raise DownloadError(
        f"{path} was replaced {VERSIONS} times while it was downloaded.", remedy="Download it when the job is calmer."
    )


def _bring(
    http: httpx.Client, path: str, head: httpx.Response, target: Path, patience: float, on_bytes: OnBytes | None
) -> Path:
    """The very version that `head` announces. Raises `_Replaced` if there is another now."""
    sha256, size = announced(head)
    part = target.with_name(f".{target.name}.{sha256[:16]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fill(http, path, part, sha256, size, patience, on_bytes)
        _verify(part, sha256)
        part.replace(target)
    except _Replaced:
        part.unlink(missing_ok=True)  # nobody has the rest of it any more
        raise
    except OSError as error:
        raise DownloadError(f"Cannot store {target}: {error.strerror or error}.") from error
    return target


def announced(head: httpx.Response) -> tuple[str, int]:
    """(sha256 in hex, bytes) that an answer announces by Repr-Digest (RFC 9530) or by its ETag."""
    sha256, size = _version(head), head.headers.get("content-length", "")
    if not sha256 or not size.isdigit():
        raise DownloadError(f"{head.request.url} announces no sha256 and size, so it cannot be verified.")
    return sha256, int(size)


def _version(answer: httpx.Response) -> str:
    """The sha256 in hex of the whole file that an answer is about; empty if it does not say."""
    digest = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", answer.headers.get("repr-digest", ""))
    etag = re.fullmatch(r'"([0-9a-f]{64})"', answer.headers.get("etag", ""))
    try:
        sha256 = base64.b64decode(digest[1], validate=True).hex() if digest else etag[1] if etag else ""
    except binascii.Error:
        return ""
    return sha256 if len(sha256) == 64 else ""


def _head(http: httpx.Client, path: str, patience: float) -> httpx.Response:
    """The answer to HEAD; a service that is away is waited for."""
    deadline = time.monotonic() + patience
    while True:
        try:
            head = http.head(path)
            _check(head, path)
            return head
        except httpx.TransportError as error:
            _wait(path, error, deadline)


def _check(answer: httpx.Response, path: str) -> None:
    """Raises `_Away`, which passes, and `DownloadError`."""
    if answer.status_code in AWAY:
        raise _Away(answer)
    if not answer.is_success:
        raise DownloadError(f"{path} answered {answer.status_code} {answer.reason_phrase} in mid-download.")


def _wait(path: str, error: httpx.TransportError, deadline: float) -> None:
    """Until the next try. Raises `DownloadError` if it is too late for one."""
    left = deadline - time.monotonic()
    if left < 0:
        raise DownloadError(
            f"The download of {path} broke off ({error or type(error).__name__}).",
            remedy="Run the same command again: it goes on where it stopped.",
        ) from error
    wanted = error.wait if isinstance(error, _Away) else 0.0
    time.sleep(max(RETRY_PAUSE, min(wanted, left)))


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
            _wait(path, error, deadline)


def _stream(
    http: httpx.Client, path: str, part: Path, here: int, sha256: str, size: int, on_bytes: OnBytes | None
) -> None:
    # identity: a compressed transfer would have other bytes than the digest is of.
    headers = {"accept-encoding": "identity"}
    if here:
        headers |= {"range": f"bytes={here}-", "if-range": f'"{sha256}"'}
    with _answer(http, path, headers, sha256) as response:
        _check(response, path)
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
def _answer(http: httpx.Client, path: str, headers: dict[str, str], sha256: str) -> Iterator[httpx.Response]:
    """The service's answer, or that of the storage which it names.

    Raises: `_Replaced` if it is about another file; `TransportError` if the storage refuses.
    """
    with http.stream("GET", path, headers=headers, follow_redirects=False) as told:
        # The service's word alone: the storage has a tag of its own.
        if (version := _version(told)) and version != sha256:
            raise _Replaced
        if not (told.is_redirect and "repr-digest" in told.headers):
            yield told
            return
        location = told.url.join(told.headers["location"])
    # The address is the permission: our connections and none of our headers, which hold the token.
    passed = ("accept-encoding", "range") if version else ("accept-encoding",)
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
