"""Downloads over a real socket, from a server that breaks off, lies or has a new version."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from client.download import RETRY_PAUSE, VERSIONS, announced, fetch
from client.errors import DownloadError

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class Source:
    """What the server has, and how it misbehaves."""

    content: bytes = CONTENT
    sent: bytes | None = None  # other bytes than announced
    break_after: list[int] = field(default_factory=list)  # bytes after which each next answer breaks off
    away: list[int] = field(default_factory=list)  # statuses of the answers after the first, which broke off
    versions: list[bytes] = field(default_factory=list)  # what takes the place of the content before each next GET
    ignore_range: bool = False
    retry_after: str = ""
    requests: list[str | None] = field(default_factory=list)  # the Range of every GET

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def http(source: Source) -> Iterator[httpx.Client]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._head(200, len(source.content))

        def do_GET(self) -> None:
            wanted = self.headers.get("range")
            source.requests.append(wanted)
            if source.versions:
                source.content = source.versions.pop(0)
            if source.away and len(source.requests) > 1:
                self._head(source.away.pop(0), 0)
                return
            match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
            fresh = self.headers.get("if-range") in (None, f'"{source.sha256}"')
            start = int(match[1]) if match and fresh and not source.ignore_range else 0
            body = (source.sent or source.content)[start:]
            self._head(206 if start else 200, len(source.content) - start)
            self.wfile.write(body[: source.break_after.pop(0)] if source.break_after else body)

        def _head(self, status: int, length: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.send_header("ETag", f'"{source.sha256}"')
            if status == 503 and source.retry_after:
                self.send_header("Retry-After", source.retry_after)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass  # keeps the test's output clean

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
            yield client
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def bring(http: httpx.Client, target: Path, patience: float = 20.0, **options: object) -> Path:
    return fetch(http, "/file", http.head("/file"), target, patience=patience, **options)  # type: ignore[arg-type]


def test_a_file_arrives_whole_and_alone(http: httpx.Client, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = bring(http, tmp_path / "new" / "file", on_bytes=lambda done, size: seen.append((done, size)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert list(target.parent.iterdir()) == [target]


def test_an_empty_file_arrives(http: httpx.Client, tmp_path: Path, source: Source) -> None:
    source.content = b""
    assert bring(http, tmp_path / "file").read_bytes() == b""


def test_a_broken_transfer_goes_on_where_it_stopped(http: httpx.Client, tmp_path: Path, source: Source) -> None:
    source.break_after = [300_000, 300_000]
    assert bring(http, tmp_path / "file").read_bytes() == CONTENT
    assert source.requests == [None, "bytes=300000-", "bytes=600000-"]


def test_a_service_that_is_away_in_between_is_waited_for(http: httpx.Client, tmp_path: Path, source: Source) -> None:
    source.break_after, source.away = [300_000], [429, 502, 503, 504]
    assert bring(http, tmp_path / "file").read_bytes() == CONTENT
    assert source.requests == [None, *["bytes=300000-"] * 5]


def test_as_long_as_the_service_asks(
    http: httpx.Client, tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    source.break_after, source.away, source.retry_after = [300_000], [503], "7"
    assert bring(http, tmp_path / "file").read_bytes() == CONTENT
    assert waits == [RETRY_PAUSE, 7.0]


def test_a_refusal_in_between_is_the_end(http: httpx.Client, tmp_path: Path, source: Source) -> None:
    source.break_after, source.away = [300_000], [404]
    with pytest.raises(DownloadError, match="404"):
        bring(http, tmp_path / "file")


@pytest.mark.parametrize("size", [len(CONTENT), 500_000, 200_000])
@pytest.mark.parametrize("broken", [False, True], ids=["at once", "after a break"])
def test_what_is_replaced_meanwhile_is_begun_anew(
    http: httpx.Client, tmp_path: Path, source: Source, broken: bool, size: int
) -> None:
    """A running job has better weights now, as large as those or not."""
    new = CONTENT[::-1][:size]
    source.break_after, source.versions = [300_000] * broken, [CONTENT] * broken + [new]
    assert bring(http, tmp_path / "file").read_bytes() == new
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    # One answer is thrown away, before its body: then all of the new one.
    assert source.requests[-2:] == [("bytes=300000-" if broken else None), None]


def test_what_is_replaced_again_and_again_is_given_up(http: httpx.Client, tmp_path: Path, source: Source) -> None:
    source.versions = [bytes([number]) * 100 for number in range(20)]
    with pytest.raises(DownloadError, match=f"replaced {VERSIONS} times"):
        bring(http, tmp_path / "file")
    assert len(source.requests) == VERSIONS
    assert list(tmp_path.iterdir()) == []


def test_a_later_call_goes_on_where_an_earlier_one_stopped(http: httpx.Client, tmp_path: Path, source: Source) -> None:
    source.break_after = [300_000, 0]
    with pytest.raises(DownloadError, match="broke off") as caught:
        bring(http, tmp_path / "file", patience=0.0)
    assert "again" in caught.value.remedy
    assert not (tmp_path / "file").exists()
    source.break_after = []
    assert bring(http, tmp_path / "file").read_bytes() == CONTENT
    assert source.requests[-1] == "bytes=300000-"


def test_a_server_without_ranges_begins_again(http: httpx.Client, tmp_path: Path, source: Source) -> None:
    source.break_after, source.ignore_range = [300_000], True
    assert bring(http, tmp_path / "file").read_bytes() == CONTENT


def test_parts_of_two_versions_never_mix(http: httpx.Client, tmp_path: Path, source: Source) -> None:
    source.break_after = [300_000, 0]
    with pytest.raises(DownloadError):
        bring(http, tmp_path / "file", patience=0.0)
    source.content = CONTENT[::-1]
    source.break_after = []
    assert bring(http, tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_other_bytes_than_announced_are_thrown_away(http: httpx.Client, tmp_path: Path, source: Source) -> None:
    source.sent = CONTENT[::-1]
    (tmp_path / "file").write_text("what was here before")
    with pytest.raises(DownloadError, match="sha256"):
        bring(http, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "what was here before"


def test_a_target_that_cannot_be_written_is_named(http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="Cannot store"):
        bring(http, tmp_path / "file" / "below")


def head(**headers: str) -> httpx.Response:
    return httpx.Response(200, headers=headers, request=httpx.Request("HEAD", "http://127.0.0.1/file"))


def test_the_digest_is_read_from_either_header() -> None:
    digest = hashlib.sha256(b"x").digest()
    by_field = head(**{"repr-digest": f"sha-256=:{base64.b64encode(digest).decode()}:", "content-length": "1"})
    by_etag = head(etag=f'"{digest.hex()}"', **{"content-length": "1"})
    assert announced(by_field) == announced(by_etag) == (digest.hex(), 1)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"etag": '"abc"', "content-length": "1"},
        {"etag": f'W/"{"0" * 64}"', "content-length": "1"},
        {"repr-digest": "sha-256=:AAA:", "content-length": "1"},
        {"etag": f'"{"0" * 64}"'},
    ],
)
def test_nothing_is_fetched_that_cannot_be_verified(headers: dict[str, str]) -> None:
    with pytest.raises(DownloadError, match="cannot be verified"):
        announced(head(**headers))
