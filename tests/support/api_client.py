"""A client of the API in the test's own process: where it calls from, what it shows, and how it is refused."""

from __future__ import annotations

from typing import Any

# A TestClient on this machine.
HERE: dict[str, Any] = {"base_url": "http://127.0.0.1:8470", "client": ("127.0.0.1", 50000)}
ELSEWHERE: dict[str, Any] = {"base_url": "http://192.0.2.7:8470", "client": ("192.0.2.9", 50000)}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def problem(answer: Any, status: int) -> str:
    """What an answer complains of; it must be a problem of this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])
