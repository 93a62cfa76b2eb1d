"""Retention and audit where artifacts lie in a bucket: by the same lines, on a server that speaks S3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI

from api.database import Database
from api.services.files import audit, retention
from api.services.files.audit import Audit
from api.settings import Settings
from api.stores.s3 import S3Storage
from tests.support.artifacts import agree, steps
from tests.support.s3 import S3
from tests.support.worker_calls import Worker, checkpoint
from wire.audit import Aborted, Finding, Summary


@pytest.fixture
def settings(make_settings: Callable[..., Settings], s3: S3) -> Settings:
    return make_settings(**s3.settings())


@pytest.fixture
def storage(app: FastAPI) -> S3Storage:
    found: S3Storage = app.state.storage
    return found


@pytest.fixture
def job(post_job: Callable[..., str], spec: dict[str, Any], worker: Worker) -> str:
    """A job at its end with three checkpoints."""
    job = post_job(spec=spec | {"checkpoint": {"keep_last": 10}})
    worker.claim(job)
    for step in (1, 2, 3):
        checkpoint(worker, step, b"state %d" % step)
    worker.finish("succeeded")
    return job


def test_an_audit_reads_the_bucket(
    database: Database, storage: S3Storage, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "RECHECK_SECONDS", 0.0)
    (summary,) = Audit(database, storage, verify=True).lines()
    assert summary == Summary(rows=3, files=3, bytes_read=21, findings=0, in_flight=0)
    first, second, third = sorted((stored.key for stored in storage.files()), key=lambda key: key.partition("-")[2])
    storage.bucket.delete(first)
    storage.bucket.put(second, b"longer than state 2")
    storage.bucket.put(third, b"STATE 3")
    storage.bucket.put(f"{job}/{'0' * 32}-log.txt", b"left")
    *findings, _ = Audit(database, storage, verify=True).lines()
    told = {finding.key: finding.problem for finding in findings if isinstance(finding, Finding)}
    # A bucket tells when an object was written, and this one is young.
    assert told == {first: "missing", second: "size", third: "bytes", f"{job}/{'0' * 32}-log.txt": "in_flight"}


def test_a_bucket_that_refuses_ends_the_audit(
    database: Database, make_settings: Callable[..., Settings], s3: S3, job: str
) -> None:
    other = S3Storage(make_settings(**s3.settings(bucket="no-such-bucket")))
    *_, last = Audit(database, other).lines()
    assert isinstance(last, Aborted)
    assert "NoSuchBucket" in last.detail


def test_checkpoints_go_from_the_bucket(database: Database, storage: S3Storage, job: str) -> None:
    assert retention.trim_ended_jobs(database, storage, 1) == 2
    assert steps(database, job) == [3]
    assert agree(database, storage)
