"""A small API over real HTTP that misbehaves on demand: the worker's tests talk to it through real sockets.

It keeps what it was told the way the real one does (batches by sequence, files by name after checking the digest),
and can answer 5xx, drop a connection before or after it has taken the request, answer late, or cut a download.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "the-token-of-the-test-worker"
ATTEMPT_TOKEN = "the-token-of-the-test-attempt"  # good for the calls of an attempt alone


@dataclass
class Fault:
    """What goes wrong with one request. `where` is the endpoint's last word: metrics, artifacts, heartbeat ...

    `headers` come with the answer also if nothing goes wrong.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    drop: str = ""  # "before" or "after" the request has taken effect
    delay: float = 0.0
    hold: threading.Event | None = None  # answered once it is set
    cut: int | None = None  # bytes of a download, or of an upload, after which the connection breaks


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float


class Double:
    """The service. Its fields are read and set by tests."""

    def __init__(self, port: int = 0) -> None:
        self.lock = threading.Lock()
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.claims: dict[str, dict[str, Any]] = {}
        self.batches: dict[int, dict[str, Any]] = {}
        self.batch_order: list[int] = []
        self.evaluations: list[dict[str, Any]] = []
        self.logs: dict[int, list[dict[str, Any]]] = {}
        self.uploads: list[tuple[str, dict[str, str], bytes]] = []
        self.parts: dict[str, bytes] = {}  # what has arrived, by digest
        self.files: dict[str, bytes] = {}
        self.finished: list[dict[str, Any]] = []
        self.heartbeats = 0
        self.command: str | None = None
        self.commanded = threading.Event()
        self.stale = False
        self.server = _Server(("127.0.0.1", port), _Handler)
        self.server.double = self
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def points(self) -> list[dict[str, Any]]:
        """All metric points, in the order in which their batches were taken."""
        return [point for sequence in self.batch_order for point in self.batches[sequence]["points"]]

    @property
    def log(self) -> list[str]:
        """All lines of the log, in the order of their batches."""
        return [line["text"] for _, lines in sorted(self.logs.items()) for line in lines]

    def reset(self) -> None:
        """Forget the last attempt's end and command: the next one is about to start."""
        self.finished.clear()
        self.command = None
        self.commanded.clear()

    def give_command(self, command: str) -> None:
        self.command = command
        self.commanded.set()

    def close(self) -> None:
        self.commanded.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def seen(self, word: str) -> list[Request]:
        return [request for request in list(self.requests) if word in request.path]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    double: Double

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_PATCH = do_GET

    def do_HEAD(self) -> None:
        """Of an upload: how much has arrived. It is a question about a fault, and suffers none itself."""
        api = self.server.double
        name, digest, size = self.path.rpartition("/")[2], self.headers["Repr-Digest"], self.headers["Upload-Length"]
        with api.lock:
            done = any(name == known and digest == _digest(body) for known, _, body in api.uploads)
            offset = int(size) if done else len(api.parts.get(digest, b""))
        self.send_response(200)
        self.send_header("Upload-Offset", str(offset))
        self.end_headers()

    def _handle(self) -> None:
        api = self.server.double
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        word = next((w for w in reversed(parts) if w in WORDS), "")
        with api.lock:
            cut = api.faults[word][0].cut if self.command in ("PUT", "PATCH") and api.faults[word] else None
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), FOREVER if cut is None else cut))
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        with api.lock:
            api.requests.append(Request(self.command, url.path, query, headers, body, time.monotonic()))
            fault = api.faults[word].pop(0) if api.faults[word] else api.always.get(word, Fault())
            if cut is not None:
                api.parts[self._named()] = api.parts.get(self._named(), b"") + body
                fault = Fault(drop="before")
        time.sleep(fault.delay)
        if fault.hold is not None:
            fault.hold.wait(60)
        if fault.drop == "before":
            self.close_connection = True
            return
        if fault.status is not None:
            self._answer(fault.status, fault.body, fault.headers)
            return
        known = (TOKEN, ATTEMPT_TOKEN) if "attempts" in parts else (TOKEN,)
        if headers.get("authorization", "").removeprefix("Bearer ") not in known:
            self._answer(401, {"title": "who are you?", "status": 401})
            return
        if api.stale and "attempts" in parts:
            problem = {"title": "stale", "status": 409, "detail": "another attempt has taken its place"}
            self._answer(409, problem)
            return
        answer = getattr(self, f"_{word}")(parts, query, body, fault)
        if fault.drop == "after":
            self.close_connection = True
        elif answer is not None:
            self._answer(*answer, fault.headers)

    def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = b"" if status == 204 else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def _claim(self, parts: list[str], query: dict[str, str], body: bytes, fault: Fault) -> tuple[int, object]:
        with self.server.double.lock:
            claim = self.server.double.claims.pop(parts[2], None)
        return (200, claim) if claim else (409, {"title": "taken", "status": 409})

    def _register(self, parts: list[str], query: dict[str, str], body: bytes, fault: Fault) -> tuple[int, object]:
        return 204, {}

    def _heartbeat(self, parts: list[str], query: dict[str, str], body: bytes, fault: Fault) -> tuple[int, object]:
        self.server.double.heartbeats += 1
        return 200, {"lease_expires_at": "2030-01-01T00:00:00Z", "command": None}

    def _commands(self, parts: list[str], query: dict[str, str], body: bytes, fault: Fault) -> tuple[int, object]:
        self.server.double.commanded.wait(float(query["wait"]))
        return 200, {"command": self.server.double.command}

    def _metrics(self, parts: list[str], query: dict[str, str], body: bytes, fault: Fault) -> tuple[int, object]:
        api, batch = self.server.double, json.loads(body)
        with api.lock:
            if batch["sequence"] not in api.batches:
                api.batches[batch["sequence"]] = batch
                api.batch_order.append(batch["sequence"])
        return 200, {}

    def _evaluations(self, parts: list[str], query: dict[str, str], body: bytes, fault: Fault) -> tuple[int, object]:
        self.server.double.evaluations.append(json.loads(body))
        return 201, {}

    def _logs(self, parts: list[str], query: dict[str, str], body: bytes, fault: Fault) -> tuple[int, object]:
        api, batch = self.server.double, json.loads(body)
        with api.lock:
            api.logs.setdefault(batch["sequence"], batch["lines"])
        return 200, {}

    def _finish(self, parts: list[str], query: dict[str, str], body: bytes, fault: Fault) -> tuple[int, object]:
        report = json.loads(body)
        self.server.double.finished.append(report)
        return 200, {"job": "job", "status": report["outcome"], "retried": False}

    def _uploads(self, parts: list[str], query: dict[str, str], body: bytes, fault: Fault) -> tuple[int, object]:
        return 200, {"through": "api"}

    def _artifacts(
        self, parts: list[str], query: dict[str, str], body: bytes, fault: Fault
    ) -> tuple[int, object] | None:
        if self.command == "GET":
            self._download(self.server.double.files[parts[-1]], fault)
            return None
        api = self.server.double
        if self.command == "PATCH":
            have = api.parts.get(self._named(), b"")
            if any(self._named() == _digest(known) for _, _, known in api.uploads):
                return 200, {}
            if int(self.headers["Upload-Offset"]) != len(have):
                problem = {"title": "offset", "status": 409, "type": "/problems/wrong-upload-offset"}
                return 409, problem
            body = have + body
        if self._named() != _digest(body):
            return 422, {"title": "digest", "status": 422, "detail": "the bytes are not those of the digest"}
        with api.lock:
            api.uploads.append((parts[-1], query, body))
        return 201, {}

    def _named(self) -> str:
        """The digest that an upload comes with."""
        return self.headers["Repr-Digest"] or self.headers["Content-Digest"]

    def _download(self, data: bytes, fault: Fault) -> None:
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        start = 0
        if "Range" in self.headers and self.headers.get("If-Range", etag) == etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: fault.cut])
        self.close_connection = fault.cut is not None


def _digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


FOREVER = 1 << 62
WORDS = frozenset(
    {"claim", "heartbeat", "commands", "metrics", "evaluations", "logs", "finish", "artifacts", "uploads", "register"}
)
