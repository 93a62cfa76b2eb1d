"""A server of one file that breaks off, lies, is away or has a new version."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class FileSource:
    """What the server has, and how it misbehaves."""

    content: bytes = CONTENT
    sent: bytes | None = None  # other bytes than announced
    break_after: list[int] = field(default_factory=list)  # bytes after which each next answer breaks off
    away: list[int] = field(default_factory=list)  # statuses of the answers after the first, which broke off
    versions: list[bytes] = field(default_factory=list)  # what takes the place of the content before each next GET
    ignore_range: bool = False
    without_length: bool = False  # a body ends where the connection does
    retry_after: str = ""
    requests: list[str | None] = field(default_factory=list)  # the Range of every GET
    url: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@contextmanager
def file_source() -> Iterator[FileSource]:
    """A running server, whatever path it is asked for."""
    source = FileSource()

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
            fresh = self.headers.get("if-range") == f'"{source.sha256}"'
            start = int(match[1]) if match and fresh and not source.ignore_range else 0
            body = (source.content if source.sent is None else source.sent)[start:]
            self._head(206 if start else 200, None if source.without_length else len(body))
            self.wfile.write(body[: source.break_after.pop(0)] if source.break_after else body)

        def _head(self, status: int, length: int | None) -> None:
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.send_header("ETag", f'"{source.sha256}"')
            if status == 503 and source.retry_after:
                self.send_header("Retry-After", source.retry_after)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass  # keeps the test's output clean

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    source.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield source
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
