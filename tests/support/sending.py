"""A worker's side of an upload that comes in pieces, or breaks off."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
from typing import Any
from urllib.parse import urlencode

import httpx

from tests.support.worker_calls import Worker

CONTENT = os.urandom(3_000_000)
NAME = "last.safetensors"


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


class Upload:
    """The calls for one file."""

    def __init__(self, http: httpx.Client, path: str, headers: dict[str, str], content: bytes = CONTENT) -> None:
        self.http = http
        self.path = path
        self.headers = headers
        self.content = content
        self.whole = {"Repr-Digest": digest(content), "Upload-Length": str(len(content))}

    def arrived(self) -> int:
        answer = self.http.head(self.path, headers=self.headers | self.whole)
        assert answer.status_code == 200
        return int(answer.headers["upload-offset"])

    def go_on(self, offset: int, stop: int | None = None, **headers: str) -> httpx.Response:
        return self.http.patch(
            self.path,
            content=self.content[offset:stop],
            headers=self.headers | self.whole | {"Upload-Offset": str(offset)} | headers,
        )


def half_sent(address: str, upload: Upload, count: int) -> socket.socket:
    """A connection on which the first `count` bytes of the file were sent, of all that were promised."""
    host, port = re.fullmatch(r"http://([^:/]+):(\d+)/?", address).groups()  # type: ignore[union-attr]
    headers = upload.headers | {
        "Host": host,
        "Content-Length": str(len(upload.content)),
        "Content-Digest": digest(upload.content),
    }
    head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"PUT {upload.path} HTTP/1.1\r\n{head}\r\n".encode() + upload.content[:count])
    return connection


class Sender:
    """Brings files, as the storage wants them, or through the API in any case."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def through_api(self, name: str, content: bytes, **more: Any) -> Any:
        return self.worker.put(f"{name}?{urlencode(more)}", content, **{"Content-Digest": digest(content)})

    def by_plan(self, name: str, content: bytes, **more: Any) -> Any:
        body = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **more}
        plan = self.worker.post(f"uploads/{name}", body)
        assert plan.status_code == 200, plan.text
        if plan.json()["through"] == "api":
            return self.through_api(name, content, **more)
        sums = []
        for part in plan.json()["parts"]:
            some = content[part["offset"] : part["offset"] + part["size"]]
            sums.append(hashlib.md5(some).hexdigest())
            if not part["arrived"]:
                httpx.put(part["url"], content=some, trust_env=False).raise_for_status()
        return self.worker.commit(name, body | {"md5": sums})
