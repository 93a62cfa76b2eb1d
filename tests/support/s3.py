"""A server that speaks S3, as a process of its own (moto's), and a recorder to stand before it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import httpx

from client.stack.services import HOST, free_port

KEY, SECRET = "AKIATESTS", "a-secret-that-nobody-may-read"
SECONDS = 60.0  # for the server to start in, on a machine that does other things too


@dataclass
class S3:
    """The running server. Each bucket is new."""

    url: str
    numbers: Iterator[int] = field(default_factory=count)

    def bucket(self) -> str:
        name = f"bucket-{next(self.numbers)}"
        httpx.put(f"{self.url}/{name}", trust_env=False).raise_for_status()
        return name

    def settings(self, bucket: str | None = None, **more: Any) -> dict[str, Any]:
        """Settings for artifacts in a bucket, a new one unless it is named."""
        return {
            "storage_url": f"s3://{bucket or self.bucket()}/some/prefix",
            "storage_endpoint": self.url,
            "storage_access_key_id": KEY,
            "storage_secret_access_key": SECRET,
            **more,
        }


@contextmanager
def s3_server() -> Iterator[S3]:
    port = free_port(0)
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = S3(f"http://{HOST}:{port}")
        deadline = time.monotonic() + SECONDS
        while not _answers(found.url):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)
        yield found
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/moto-api/", trust_env=False).is_success
    except httpx.TransportError:
        return False


@dataclass
class Seen:
    """A request that came to the storage."""

    method: str
    path: str
    headers: dict[str, str]


class Recorder:
    """Stands before the server, notes what comes, and can break it off; made known as the public endpoint."""

    def __init__(self, target: str) -> None:
        self.seen: list[Seen] = []
        self.refusals: list[int] = []  # statuses that the next requests are answered with
        self.cuts: list[int] = []  # bytes of the next bodies, to or from the storage, after which the connection breaks
        self._http = httpx.Client(base_url=target, trust_env=False)
        self._server = _Server((HOST, 0), _Handler)
        self._server.recorder = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://{HOST}:{self._server.server_address[1]}"

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        return self._http.request(method, path, headers=headers, content=body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._http.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    recorder: Recorder

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        recorder = self.server.recorder
        headers = {key.lower(): value for key, value in self.headers.items()}
        recorder.seen.append(Seen(self.command, self.path, headers))
        length = int(headers.get("content-length", 0))
        cut = recorder.cuts.pop(0) if recorder.cuts else None
        if cut is not None and self.command == "PUT":
            self.rfile.read(min(cut, length))
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if recorder.refusals:
            self._answer(recorder.refusals.pop(0), {}, b"")
            return
        passed = {name: headers[name] for name in ("content-type", "content-md5", "range") if name in headers}
        found = recorder.forward(self.command, self.path, passed, body)
        told = {name: found.headers[name] for name in ("content-range", "etag") if name in found.headers}
        self._answer(found.status_code, told, found.content, cut)

    do_PUT = do_GET

    def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None
