"""A download for a person: it waits for a service that is away, and begins anew with what is replaced meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from client.errors import DownloadError
from wire import download
from wire.download import Damaged, OnBytes, Replaced
from wire.retry_after import retry_after

RETRY_PAUSE = 0.5
# What passes by itself: too many requests; an API, or whatever stands before it, that restarts.
UNAVAILABLE = frozenset({429, 502, 503, 504})
VERSIONS = 5  # of a file that are begun with: a running job replaces its best weights now and then


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

    A later call finds what an earlier one left behind. What is replaced meanwhile is begun anew. It is given up once no
    byte has come for `patience` seconds. Raises: `DownloadError`.
    """
    for _ in range(VERSIONS):
        try:
            return _fetch_version(http, path, head, target, patience, on_bytes)
        except Replaced:
            head = _send_with_retries(lambda: http.head(path), path, patience, lambda: 0)
    raise DownloadError(
        f"{path} was replaced {VERSIONS} times while it was downloaded.", remedy="Download it when the job is calmer."
    )


def _fetch_version(
    http: httpx.Client, path: str, head: httpx.Response, target: Path, patience: float, on_bytes: OnBytes | None
) -> Path:
    """The very version that `head` announces. Raises `Replaced` if there is another now."""
    sha256, size = announced(head)

    def send_with_retries(send: Callable[[], httpx.Response]) -> httpx.Response:
        return _send_with_retries(send, path, patience, lambda: download.arrived(target, sha256))

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        download.download(
            http, path, target, sha256=sha256, size=size, send_with_retries=send_with_retries, on_bytes=on_bytes
        )
    except Damaged as damaged:
        raise DownloadError(
            f"The bytes that came have sha256 {damaged.found}, not {sha256} as announced.", remedy="Download it again."
        ) from damaged
    except OSError as error:
        raise DownloadError(f"Cannot store {target}: {error.strerror or error}.") from error
    return target


def announced(head: httpx.Response) -> tuple[str, int]:
    """(sha256 in hex, bytes) that an answer announces. Raises `DownloadError` if it does not."""
    sha256, size = download.announced(head), head.headers.get("content-length", "")
    if not sha256 or not size.isdigit():
        raise DownloadError(f"{head.request.url} announces no sha256 and size, so it cannot be verified.")
    return sha256, int(size)


def _send_with_retries(
    send: Callable[[], httpx.Response], path: str, patience: float, arrived: Callable[[], int]
) -> httpx.Response:
    """The first answer that is a success. Trouble that passes is borne while bytes of the file keep coming.

    Raises: `DownloadError` for another answer, or once no byte has come for `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        before, wanted = arrived(), 0.0
        trouble: httpx.TransportError
        try:
            answer = send()
            if answer.is_success:
                return answer
            if answer.status_code not in UNAVAILABLE:
                raise DownloadError(f"{path} answered {answer.status_code} {answer.reason_phrase} in mid-download.")
            trouble = httpx.RemoteProtocolError(f"the service answered {answer.status_code}")
            wanted = retry_after(answer.headers)
        except httpx.TransportError as error:
            trouble = error
        if arrived() > before:
            deadline = time.monotonic() + patience
        left = deadline - time.monotonic()
        if left < 0:
            raise DownloadError(
                f"The download of {path} broke off ({trouble or type(trouble).__name__}).",
                remedy="Run the same command again: it goes on where it stopped.",
            ) from trouble
        time.sleep(max(RETRY_PAUSE, min(wanted, left)))
