"""Uploads that go to the bucket by themselves: the plan, the commit, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.services.files import artifacts
from api.settings import Settings
from api.storage import StorageUnavailable
from api.stores.bucket import Bucket
from api.stores.s3 import S3DirectUploads, S3Storage
from tests.support.databases import ONE_DATABASE
from tests.support.s3 import S3, SECRET
from tests.support.worker_calls import Worker
from wire.errors import DIGEST_MISMATCH

CONTENT = os.urandom(250_000)
NAME = "best.safetensors"


@pytest.fixture
def settings(make_settings: Callable[..., Settings], s3: S3) -> Settings:
    return make_settings(**s3.settings(storage_part_size=100_000, upload_limit=300_000))


@pytest.fixture
def storage(app: FastAPI) -> S3Storage:
    found: S3Storage = app.state.storage
    return found


@pytest.fixture
def job(post_job: Callable[..., str], worker: Worker) -> str:
    found = post_job()
    assert worker.claim(found).status_code == 200
    return found


class Upload:
    """The calls for one file of a worker."""

    def __init__(self, worker: Worker, content: bytes = CONTENT) -> None:
        self.worker = worker
        self.content = content
        self.body = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def plan(self, **more: Any) -> Any:
        return self.worker.post(f"uploads/{NAME}", self.body | more)

    def parts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.plan().json()["parts"]
        return found

    def send(self, part: dict[str, Any], content: bytes | None = None) -> None:
        some = (content or self.content)[part["offset"] : part["offset"] + part["size"]]
        httpx.put(part["url"], content=some, trust_env=False).raise_for_status()

    def commit(self, content: bytes | None = None, **more: Any) -> Any:
        content = content or self.content
        sums = [hashlib.md5(content[at : at + 100_000]).hexdigest() for at in range(0, len(content), 100_000)]
        return self.worker.commit(NAME, self.body | {"md5": sums} | more)


@pytest.fixture
def upload(worker: Worker, job: str) -> Upload:
    return Upload(worker)


def everything(storage: S3Storage) -> list[str]:
    return [found.path for found in storage.bucket.list()]


def test_the_plan_and_the_commit(client: TestClient, job: str, upload: Upload, storage: S3Storage) -> None:
    plan = upload.plan().json()
    assert (plan["through"], len(plan["parts"])) == ("storage", 3)
    assert plan["expires_at"] is not None
    for part in plan["parts"]:
        upload.send(part)
    assert client.get(f"/jobs/{job}/artifacts").json() == {"items": []}
    published = upload.commit()
    assert published.status_code == 201, published.text
    assert (published.json()["kind"], published.json()["size"]) == ("weights", len(CONTENT))
    assert len(everything(storage)) == 1  # the parts are gone
    location = client.get(f"/jobs/{job}/weights", follow_redirects=False).headers["location"]
    assert httpx.get(location, trust_env=False).content == CONTENT
    again = upload.commit()  # its answer got lost
    assert (again.status_code, again.json()) == (200, published.json())
    assert [part["arrived"] for part in upload.parts()] == [True] * 3


@ONE_DATABASE
def test_an_upload_that_broke_off_brings_the_rest(upload: Upload) -> None:
    first, second, third = upload.parts()
    upload.send(second)
    refused = upload.commit()
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/wrong-upload-offset")
    assert "not arrived" in refused.json()["detail"]
    assert [part["arrived"] for part in upload.parts()] == [False, True, False]
    upload.send(first)
    upload.send(third)
    assert upload.commit().status_code == 201


@ONE_DATABASE
def test_a_part_of_another_size_has_not_arrived(upload: Upload, storage: S3Storage) -> None:
    for part in upload.parts():
        upload.send(part)
    httpx.put(upload.parts()[1]["url"], content=CONTENT[:99_999], trust_env=False).raise_for_status()
    assert upload.commit().headers["upload-offset"] == "100000"
    assert list(storage.files()) == []


@ONE_DATABASE
@pytest.mark.parametrize("size", [50_000, 250_000])
def test_wrong_bytes_are_refused_and_forgotten(
    client: TestClient, job: str, worker: Worker, storage: S3Storage, size: int
) -> None:
    upload = Upload(worker, CONTENT[:size])
    wrong = bytes(10) + CONTENT[10:size]
    for part in upload.parts():
        upload.send(part, wrong)
    refused = upload.commit()
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")
    assert "not what was announced" in refused.json()["detail"]
    assert refused.json()["type"] == DIGEST_MISMATCH
    assert client.get(f"/jobs/{job}/artifacts").json() == {"items": []}
    assert everything(storage) == []
    for part in upload.parts():
        upload.send(part)
    assert upload.commit().status_code == 201


def test_an_attempt_that_ends_during_the_commit_publishes_nothing(
    client: TestClient, job: str, upload: Upload, worker: Worker, storage: S3Storage, monkeypatch: Any
) -> None:
    publish = S3DirectUploads.publish

    def slow(*arguments: Any) -> None:
        publish(*arguments)
        assert worker.finish("released").status_code == 200

    monkeypatch.setattr(S3DirectUploads, "publish", slow)
    for part in upload.parts():
        upload.send(part)
    assert upload.commit().status_code == 409
    assert client.get(f"/jobs/{job}/artifacts").json() == {"items": []}
    assert list(storage.files()) == []
    assert artifacts.sweep(client.app.state.database, storage, older_than=-60) == 3  # type: ignore[attr-defined]
    assert everything(storage) == []


def test_a_former_attempt_cannot_touch_what_is_published(
    client: TestClient, job: str, upload: Upload, worker: Worker
) -> None:
    old = upload.parts()
    worker.finish("released")
    assert upload.plan().status_code == 409
    assert worker.claim(job).status_code == 200
    for part in upload.parts():
        upload.send(part)
    assert upload.commit().status_code == 201
    for part in old:
        upload.send(part, bytes(len(CONTENT)))
    location = client.get(f"/jobs/{job}/weights", follow_redirects=False).headers["location"]
    assert httpx.get(location, trust_env=False).content == CONTENT


def test_two_commits_at_once_publish_one_file(
    client: TestClient, job: str, upload: Upload, storage: S3Storage, monkeypatch: Any
) -> None:
    """The worker has not waited for the answer of the first."""
    publish, answers = S3DirectUploads.publish, []

    def first(*arguments: Any) -> None:
        monkeypatch.setattr(S3DirectUploads, "publish", publish)
        answers.append(upload.commit().status_code)
        publish(*arguments)

    for part in upload.parts():
        upload.send(part)
    monkeypatch.setattr(S3DirectUploads, "publish", first)
    assert upload.commit().status_code == 409  # the parts are gone: what stands is found by the next try
    assert answers == [201]
    assert upload.commit().status_code == 200
    assert len(everything(storage)) == 1


@ONE_DATABASE
@pytest.mark.parametrize(
    ("changes", "status", "pointer"),
    [
        ({"size": 300_001}, 413, None),
        ({"size": -1}, 422, "/size"),
        ({"sha256": "x"}, 422, "/sha256"),
        ({"kind": "poem"}, 422, "/kind"),
        ({"kind": "checkpoint"}, 422, "step"),
    ],
)
def test_a_file_that_cannot_be_is_refused(upload: Upload, changes: Any, status: int, pointer: str | None) -> None:
    for answer in (upload.plan(**changes), upload.commit(**changes)):
        assert answer.status_code == status, answer.text
        assert pointer is None or [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_quotas_hold(upload: Upload, settings: Settings, app: FastAPI) -> None:
    parts = upload.parts()
    app.state.settings = settings.model_copy(update={"storage_limit": 100_000})
    assert upload.plan().status_code == 507
    for part in parts:
        upload.send(part)
    assert upload.commit().status_code == 507


@ONE_DATABASE
def test_a_bucket_that_is_away(
    client: TestClient, job: str, upload: Upload, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for part in upload.parts():
        upload.send(part)

    def away(*_: Any) -> Any:
        raise StorageUnavailable("the bucket does not answer")

    with monkeypatch.context() as patch:
        for method in ("find", "list", "copy", "join"):
            patch.setattr(Bucket, method, away)
        assert {upload.plan().status_code, upload.commit().status_code} == {503}
    assert upload.commit().status_code == 201  # nothing was lost
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "find", away)
        answer = client.get(f"/jobs/{job}/weights", follow_redirects=False)
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert SECRET not in caplog.text
    assert "X-Amz-Signature" not in caplog.text


@ONE_DATABASE
def test_parts_that_cannot_be_removed_are_left_to_the_sweep(
    upload: Upload, storage: S3Storage, monkeypatch: Any
) -> None:
    def away(*_: Any) -> Any:
        raise StorageUnavailable("the bucket does not answer")

    for part in upload.parts():
        upload.send(part)
    with monkeypatch.context() as patch:
        patch.setattr(S3DirectUploads, "discard", away)
        assert upload.commit().status_code == 201
    assert storage.sweep_staging(-60) == 3


@ONE_DATABASE
def test_what_came_through_the_api_waits_for_a_bucket_that_is_away(
    client: TestClient, job: str, worker: Worker, storage: S3Storage, monkeypatch: Any
) -> None:
    def away(*_: Any) -> Any:
        raise StorageUnavailable("the bucket does not answer")

    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()}:"
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put_file", away)
        assert worker.put(NAME, CONTENT, **{"Content-Digest": digest}).status_code == 503
    whole = {"Repr-Digest": digest, "Upload-Length": str(len(CONTENT)), "Upload-Offset": str(len(CONTENT))}
    path = f"/worker/attempts/{worker.attempt}/artifacts/{NAME}"
    assert client.patch(path, content=b"", headers=worker.headers | whole).status_code == 201
    assert [stored.size for stored in storage.files()] == [len(CONTENT)]


class TestFolder:
    """A folder has no addresses of its own."""

    @pytest.fixture
    def settings(self, make_settings: Callable[..., Settings]) -> Settings:
        return make_settings()

    def test_files_come_through_the_api(self, upload: Upload) -> None:
        assert upload.plan().json() == {"through": "api", "parts": [], "expires_at": None}
        refused = upload.commit()
        assert (refused.status_code, refused.json()["remedy"]) == (400, "Send the file by PUT.")
