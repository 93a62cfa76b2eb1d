"""A sweep counts as as many jobs as it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.errors import TooManyRequests
from api.limits import RateLimit
from api.settings import Settings
from tests.support.api_client import bearer
from tests.support.sweeps import order


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(max_waiting_per_owner=5, rate_per_second=0.001, rate_burst=5)


def test_all_jobs_of_a_sweep_or_none_are_let_in(client: TestClient, spec: dict[str, Any]) -> None:
    assert client.post("/sweeps", json=order(spec)).status_code == 201
    refused = client.post("/sweeps", json=order(spec))
    assert refused.status_code == 429
    assert "Retry-After" in refused.headers
    assert len(client.get("/sweeps").json()["items"]) == 1
    assert len(client.get("/jobs").json()["items"]) == 4


def test_the_next_request_waits_for_a_sweep_as_for_its_jobs(client: TestClient, spec: dict[str, Any]) -> None:
    token = client.post("/tokens", json={"name": "a", "owner": "a", "scopes": ["write"]}).json()["token"]
    assert client.post("/sweeps", json=order(spec), headers=bearer(token)).status_code == 201
    assert client.get("/sweeps", headers=bearer(token)).status_code == 200
    assert client.get("/sweeps", headers=bearer(token)).status_code == 429


def test_a_retry_of_a_sweep_counts_as_its_jobs(client: TestClient, spec: dict[str, Any]) -> None:
    sweep = client.post("/sweeps", json=order(spec)).json()["id"]
    client.post(f"/sweeps/{sweep}/cancel")
    token = client.post("/tokens", json={"name": "a", "owner": "a", "scopes": ["write"]}).json()["token"]
    assert client.post(f"/sweeps/{sweep}/retry", headers=bearer(token)).status_code == 200
    assert client.post(f"/sweeps/{sweep}/retry", headers=bearer(token)).status_code == 200  # nothing is left to retry
    assert client.get("/sweeps", headers=bearer(token)).status_code == 429


def test_what_is_charged_is_paid_off() -> None:
    now = 0.0
    rates = RateLimit(10, 5, lambda: now)
    rates.consume("a")
    rates.charge("a", 99)
    with pytest.raises(TooManyRequests):
        rates.consume("a")
    now = 9.7
    rates.consume("a")
