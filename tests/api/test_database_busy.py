"""A database that is there and has no time: the request is told to come back, and then it is served."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.settings import Settings

PostJob = Callable[..., str]


@pytest.fixture
def settings(make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("api.database.BUSY_SECONDS", 1)
    return make_settings()


def refused(answer: Any) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0


def test_a_lock_that_is_not_given_back(client: TestClient, post_job: PostJob, settings: Settings) -> None:
    job = post_job()
    sqlite = settings.database_url.startswith("sqlite")
    holder = create_engine(settings.database_url, isolation_level="AUTOCOMMIT" if sqlite else "READ COMMITTED")
    with holder.connect() as connection:
        connection.execute(text("BEGIN IMMEDIATE" if sqlite else "LOCK TABLE jobs IN EXCLUSIVE MODE"))
        refused(client.post(f"/jobs/{job}/cancel"))
        assert client.get(f"/jobs/{job}").json()["status"] == "queued"  # who only reads waits for nobody
        connection.execute(text("ROLLBACK"))
    holder.dispose()
    assert client.post(f"/jobs/{job}/cancel").json()["status"] == "cancelled"


def test_a_pool_that_is_exhausted(client: TestClient, app: FastAPI, post_job: PostJob) -> None:
    post_job()
    engine = app.state.database.engine
    with ExitStack() as stack:
        # Until it refuses: what the API's own threads hold for a moment comes back, and is taken too.
        with suppress(PoolTimeout):
            while True:
                stack.enter_context(engine.connect())
        refused(client.get("/jobs"))
    assert client.get("/jobs").status_code == 200


def test_connections_that_the_server_has_closed(client: TestClient, app: FastAPI, settings: Settings) -> None:
    if settings.database_url.startswith("sqlite"):
        pytest.skip("it has no server")
    assert client.get("/jobs").status_code == 200  # at least one waits in the pool now
    admin = create_engine(settings.database_url)
    with admin.connect() as connection:
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ended = connection.scalars(text(f"SELECT pg_terminate_backend(pid, 5000) {others}")).all()
    admin.dispose()
    assert ended
    assert [client.get("/jobs").status_code for _ in range(3)] == [200] * 3
