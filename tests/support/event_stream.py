"""The stream of a job's events, read to its end."""

from __future__ import annotations

import json
from typing import Any

from fastapi.testclient import TestClient

from wire.events import DATA


def stream(client: TestClient, job: str, last: int | None = None, query: str = "") -> list[tuple[int, str, Any]]:
    """All events of a job that has ended: (id, kind, data)."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    answer = client.get(f"/jobs/{job}/events{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(part.split(": ", 1) for part in block.splitlines() if not part.startswith((":", "retry")))
        if fields:
            DATA[fields["event"]].model_validate_json(fields["data"])  # type: ignore[index]
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found
