"""What a worker says to the API, for a test that plays it: a call each, and the files that it sends."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from fastapi.testclient import TestClient

WORKER_TOKEN = "a-worker-token-for-tests"
WORKER = {"Authorization": f"Bearer {WORKER_TOKEN}"}
DIGEST = hashlib.sha256(WORKER_TOKEN.encode()).hexdigest()


class Worker:
    """What a worker says to the API, one method per call; each gives the raw answer."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.attempt = ""
        self.token = 0

    @property
    def headers(self) -> dict[str, str]:
        return WORKER | {"Fencing-Token": str(self.token)}

    def claim(self, job: str, worker: str = "w1", **more: Any) -> Any:
        body = {"worker": worker, "device": "cpu", **more}
        answer = self.client.post(f"/worker/jobs/{job}/claim", json=body, headers=WORKER)
        if answer.status_code == 200:
            self.attempt, self.token = answer.json()["attempt"], answer.json()["fencing_token"]
        return answer

    def post(self, what: str, body: Any = None) -> Any:
        return self.client.post(f"/worker/attempts/{self.attempt}/{what}", json=body, headers=self.headers)

    def get(self, what: str) -> Any:
        return self.client.get(f"/worker/attempts/{self.attempt}/{what}", headers=self.headers)

    def put(self, name: str, content: Any, **headers: str) -> Any:
        path = f"/worker/attempts/{self.attempt}/artifacts/{name}"
        return self.client.put(path, content=content, headers=self.headers | headers)

    def commit(self, name: str, body: Any) -> Any:
        return self.client.put(f"/worker/attempts/{self.attempt}/uploads/{name}", json=body, headers=self.headers)

    def finish(self, outcome: str, **more: Any) -> Any:
        return self.post("finish", {"outcome": outcome, **more})


def upload(worker: Worker, name: str, content: bytes) -> None:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    answer = worker.put(name, content, **{"Content-Digest": f"sha-256=:{digest}:"})
    assert answer.status_code in (200, 201), answer.text


def checkpoint(worker: Worker, step: int, content: bytes = b"state") -> None:
    upload(worker, f"checkpoint-{step:08d}.pt", content)
