"""The worker's own client against the application: what it takes for the last word, and what it begins anew after."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.services.files import uploads
from api.settings import Settings
from api.stores.local import LocalStagedUpload
from api.stores.s3 import S3DirectUploads
from tests.support.s3 import S3
from tests.support.worker_calls import WORKER_TOKEN, Worker
from worker.deliver.client import AttemptClient, connect
from worker.deliver.retry import Refused, Retry
from worker.deliver.transfer import Transfer

CONTENT = os.urandom(250_000)
NAME = "best.safetensors"
RETRY = Retry(patience=60, first=0.01, longest=0.02)


@pytest.fixture(scope="module", params=["sqlite"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def job(post_job: Callable[..., str], worker: Worker) -> str:
    found = post_job()
    assert worker.claim(found).status_code == 200
    return found


@pytest.fixture
def attempt(app: FastAPI, job: str, worker: Worker) -> Iterator[AttemptClient]:
    """What the worker says to the same application behind a real server."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with connect(f"http://127.0.0.1:{listener.getsockname()[1]}", WORKER_TOKEN) as http:
        yield AttemptClient(http, worker.attempt, worker.token)
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "weights"
    found.write_bytes(CONTENT)
    return found


def stored(client: TestClient, job: str) -> bytes:
    answer = client.get(f"/jobs/{job}/weights", follow_redirects=False)
    if answer.is_redirect:
        answer = httpx.get(answer.headers["location"], trust_env=False)
    return answer.content


def spoil(monkeypatch: pytest.MonkeyPatch, times: int) -> list[bytes]:
    """Let that many files that come through the API be others than they were; the digests of all that came."""
    found: list[bytes] = []
    right = LocalStagedUpload.sha256

    def sha256(staged: LocalStagedUpload) -> bytes:
        found.append(right(staged))
        return bytes(32) if len(found) <= times else found[-1]

    monkeypatch.setattr(LocalStagedUpload, "sha256", sha256)
    return found


class TestFolder:
    """Files come through the API."""

    def test_what_went_bad_on_the_way_is_sent_once_more(
        self, client: TestClient, job: str, attempt: AttemptClient, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        came = spoil(monkeypatch, times=1)
        attempt.upload(path, NAME, "weights", 1, RETRY)
        assert came == [hashlib.sha256(CONTENT).digest()] * 2
        assert stored(client, job) == CONTENT

    def test_what_goes_bad_again_is_refused(
        self, attempt: AttemptClient, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        came = spoil(monkeypatch, times=9)
        with pytest.raises(Refused, match="not those of the digest"):
            attempt.upload(path, NAME, "weights", 1, RETRY)
        assert len(came) == 2

    def test_a_file_that_has_changed_here_is_not_sent_again(
        self, attempt: AttemptClient, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        came = spoil(monkeypatch, times=0)
        with pytest.raises(Refused, match="has changed since it was written"):
            attempt.upload(path, NAME, "weights", 1, RETRY, hashlib.sha256(b"what was written").digest())
        assert len(came) == 1

    def test_a_sender_that_was_silent_for_too_long_brings_the_rest(
        self, client: TestClient, job: str, attempt: AttemptClient, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given_up = threading.Event()
        following, chunks = uploads._next, Transfer._chunks

        async def noted(body: Any) -> bytes | None:
            try:
                return await following(body)
            except uploads.StalledUpload:
                given_up.set()
                raise

        def halting(upload: Transfer, offset: int, count: int | None = None) -> Generator[bytes]:
            for chunk in chunks(upload, offset, count):
                yield chunk[:1000]
                assert given_up.wait(30)
                yield chunk[1000:]

        monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.2)
        monkeypatch.setattr(uploads, "_next", noted)
        monkeypatch.setattr(Transfer, "_chunks", halting)
        attempt.upload(path, NAME, "weights", 1, RETRY)
        assert stored(client, job) == CONTENT


class TestBucket:
    """They go there in parts of 100,000 bytes."""

    @pytest.fixture
    def settings(self, make_settings: Callable[..., Settings], s3: S3) -> Settings:
        return make_settings(**s3.settings(storage_part_size=100_000))

    def test_a_part_that_went_bad_there_is_sent_once_more(
        self, client: TestClient, job: str, attempt: AttemptClient, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish, tries = S3DirectUploads.publish, []

        def spoiled(direct: S3DirectUploads, part: str, *arguments: Any) -> None:
            tries.append(part)
            if len(tries) == 1:
                direct._bucket.put(f"staging/{part}/100000-100000", bytes(100_000))
            publish(direct, part, *arguments)

        monkeypatch.setattr(S3DirectUploads, "publish", spoiled)
        attempt.upload(path, NAME, "weights", 1, RETRY)
        assert len(tries) == 2
        assert stored(client, job) == CONTENT

    def test_parts_of_another_size_than_was_planned_are_planned_anew(
        self, client: TestClient, job: str, attempt: AttemptClient, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The API was started anew with another CROSSKD_STORAGE_PART_SIZE."""
        publish, tries = S3DirectUploads.publish, []

        def resized(direct: S3DirectUploads, part: str, *arguments: Any) -> None:
            tries.append(part)
            direct._part_size = 70_000
            publish(direct, part, *arguments)

        monkeypatch.setattr(S3DirectUploads, "publish", resized)
        attempt.upload(path, NAME, "weights", 1, RETRY)
        assert len(tries) == 2
        assert stored(client, job) == CONTENT

    @pytest.mark.parametrize("size", [100_000, 250_000], ids=["one part", "several"])
    def test_a_browser_saves_it_under_its_name(
        self, client: TestClient, job: str, attempt: AttemptClient, path: Path, size: int
    ) -> None:
        path.write_bytes(CONTENT[:size])
        attempt.upload(path, NAME, "weights", 1, RETRY)
        location = client.get(f"/jobs/{job}/weights", follow_redirects=False).headers["location"]
        answer = httpx.get(location, trust_env=False)
        assert answer.headers["content-disposition"] == f'attachment; filename="{NAME}"'
