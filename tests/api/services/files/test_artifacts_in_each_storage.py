"""What is true of artifacts wherever they lie: in a folder, or in a bucket that others reach by themselves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.database import Database
from api.models import Artifact, Job
from api.services.files import artifacts
from api.settings import Settings
from api.storage import Storage, StorageUnavailable
from tests.support.evaluations import evaluation
from tests.support.sending import Sender, digest
from tests.support.worker_calls import Worker

CONTENT = os.urandom(250_000)


@pytest.fixture(scope="module", params=["sqlite"])
def backend(request: pytest.FixtureRequest) -> str:
    """One database: where bytes lie is nothing to it."""
    return str(request.param)


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest, make_settings: Callable[..., Settings]) -> Settings:
    if request.param == "folder":
        return make_settings()
    return make_settings(**request.getfixturevalue("s3").settings(storage_part_size=100_000))


@pytest.fixture
def storage(app: FastAPI) -> Storage:
    found: Storage = app.state.storage
    return found


@pytest.fixture
def job(post_job: Callable[..., str], worker: Worker) -> str:
    found = post_job()
    assert worker.claim(found).status_code == 200
    return found


@pytest.fixture(params=["through_api", "by_plan"])
def upload(request: pytest.FixtureRequest, worker: Worker) -> Callable[[str, bytes], Any]:
    method: Callable[[str, bytes], Any] = getattr(Sender(worker), request.param)
    return method


def download(client: TestClient, path: str, **headers: str) -> Any:
    """The answer, from the bucket if the API names it."""
    answer = client.get(path, headers=headers, follow_redirects=False)
    if answer.status_code != 307:
        return answer
    passed = {name: value for name, value in headers.items() if name.lower() == "range"}
    found = httpx.get(answer.headers["location"], headers=passed, trust_env=False)
    assert answer.headers["repr-digest"].startswith("sha-256=:")
    assert answer.headers["cache-control"] == "no-store"
    return found


def names(client: TestClient, job: str) -> list[str]:
    return [item["name"] for item in client.get(f"/jobs/{job}/artifacts").json()["items"]]


def stored(storage: Storage) -> list[str]:
    return sorted(file.key.partition("/")[2].partition("-")[2] for file in storage.files())


def test_an_upload_is_published(client: TestClient, job: str, upload: Any, storage: Storage) -> None:
    for name, content in (("best.safetensors", CONTENT), ("log.txt", b""), ("manifest.json", b"{}")):
        answer = upload(name, content)
        assert answer.status_code == 201, answer.text
        assert (answer.json()["size"], answer.json()["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert download(client, answer.json()["url"]).content == content
    assert download(client, f"/jobs/{job}/weights").content == CONTENT
    assert names(client, job) == stored(storage) == ["best.safetensors", "log.txt", "manifest.json"]
    assert storage.sweep_staging(-60) == 0  # nothing is left on the way


def test_the_same_bytes_again_change_nothing(client: TestClient, job: str, upload: Any, storage: Storage) -> None:
    assert [upload("log.txt", b"one\n").status_code for _ in range(2)] == [201, 200]
    assert upload("log.txt", b"one\ntwo\n").status_code == 201
    assert download(client, f"/jobs/{job}/artifacts/log.txt").text == "one\ntwo\n"
    assert stored(storage) == ["log.txt"]


def test_an_answer_of_its_own_for_each_precondition(client: TestClient, job: str, upload: Any) -> None:
    sha256 = upload("best.safetensors", CONTENT).json()["sha256"]
    path, etag = f"/jobs/{job}/weights", f'"{sha256}"'
    head = client.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))
    assert (head.headers["etag"], head.headers["repr-digest"]) == (etag, digest(CONTENT))
    unchanged = client.get(path, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    assert client.get(path, headers={"If-Match": '"old"'}).status_code == 412
    behind = client.get(path, headers={"Range": "bytes=9999999-"})
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")
    some = download(client, path, Range="bytes=100-199")
    assert (some.status_code, some.content) == (206, CONTENT[100:200])


def test_what_is_not_there(client: TestClient, job: str, upload: Any) -> None:
    assert client.get(f"/jobs/{job}/artifacts/log.txt").status_code == 404
    assert client.head(f"/jobs/{job}/weights").status_code == 404
    upload("log.txt", b"x")
    assert client.get(f"/jobs/{job}/artifacts/other").json()["remedy"] == "It has: log.txt."


def test_a_file_that_is_gone_is_said_not_linked(client: TestClient, job: str, upload: Any, storage: Storage) -> None:
    upload("log.txt", b"x")
    (file,) = storage.files()
    storage.delete(file.key)
    answer = client.get(f"/jobs/{job}/artifacts/log.txt", follow_redirects=False)
    assert (answer.status_code, answer.json()["detail"]) == (410, "the stored file of log.txt is gone or damaged")
    assert (answer.json()["type"], answer.headers["cache-control"]) == ("/problems/gone", "no-store")


class TestLostCheckpoints:
    """A queued job with three checkpoints, of which the storage has lost some."""

    @pytest.fixture
    def job(self, post_job: Callable[..., str], spec: dict[str, Any], worker: Worker) -> str:
        job = post_job(spec=spec | {"checkpoint": {"keep_last": 3}})
        assert worker.claim(job).status_code == 200
        for step in (10, 20, 30):
            Sender(worker).through_api(f"checkpoint-{step:08d}.pt", b"%d" % step)
        assert worker.finish("released").status_code == 200
        return job

    @pytest.fixture
    def lose(self, storage: Storage, database: Database) -> Callable[..., None]:
        def lose(*steps: int) -> None:
            for file in list(storage.files()):
                if any(file.key.endswith(f"-{step:08d}.pt") for step in steps):
                    storage.delete(file.key)

        return lose

    @staticmethod
    def step(database: Database, storage: Storage, job: str) -> int | None:
        """Where the next attempt goes on."""
        lost = artifacts.lost_checkpoints(database, storage, job)
        with database.reading() as session:
            point = artifacts.resume_point(session, session.get_one(Job, job), lost)
        return None if point is None else point.step

    def test_the_next_older_one_is_taken(
        self, database: Database, storage: Storage, job: str, lose: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert self.step(database, storage, job) == 30
        assert "gone" not in caplog.text
        lose(30)
        assert self.step(database, storage, job) == 20
        assert "checkpoint-00000030.pt is gone or damaged" in caplog.text
        lose(20)
        assert self.step(database, storage, job) == 10

    def test_a_claim_steps_over_it(self, worker: Worker, job: str, lose: Any) -> None:
        lose(30)
        assert worker.claim(job).json()["resume"]["step"] == 20

    def test_one_of_another_size_is_lost_too(
        self, database: Database, storage: Storage, job: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = type(storage).size
        shorter = lambda self, key: size(self, key) - key.endswith("-00000030.pt")  # noqa: E731
        monkeypatch.setattr(type(storage), "size", shorter)
        assert self.step(database, storage, job) == 20

    def test_where_all_are_lost_nothing_is_begun_anew(
        self, database: Database, storage: Storage, job: str, lose: Any
    ) -> None:
        """A disk that is not mounted looks like that; the attempt fails of the download."""
        lose(10, 20, 30)
        assert self.step(database, storage, job) == 30

    def test_a_storage_that_is_away_has_lost_nothing(
        self, database: Database, storage: Storage, job: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: Any) -> Any:
            raise StorageUnavailable("the bucket does not answer")

        monkeypatch.setattr(type(storage), "size", away)
        assert self.step(database, storage, job) == 30

    def test_a_retry_has_those_of_the_job_that_it_is_of(
        self, client: TestClient, database: Database, storage: Storage, job: str, worker: Worker, lose: Any
    ) -> None:
        assert worker.claim(job).status_code == 200
        worker.finish("failed", failure={"failure_class": "user", "message": "no"})
        retry = client.post(f"/jobs/{job}/retry").json()["id"]
        assert self.step(database, storage, retry) == 30
        lose(30)
        assert self.step(database, storage, retry) == 20


def test_older_checkpoints_are_pruned(client: TestClient, job: str, upload: Any, storage: Storage) -> None:
    for step in (10, 20, 30):
        assert upload(f"checkpoint-{step:08d}.pt", b"%d" % step).status_code == 201
    assert names(client, job) == stored(storage) == ["checkpoint-00000020.pt", "checkpoint-00000030.pt"]


def test_who_resumes_gets_the_checkpoint(client: TestClient, job: str, upload: Any, worker: Worker) -> None:
    upload("checkpoint-00000010.pt", CONTENT)
    assert worker.finish("released").status_code == 200
    resume = worker.claim(job).json()["resume"]
    assert (resume["step"], resume["sha256"]) == (10, hashlib.sha256(CONTENT).hexdigest())
    assert download(client, resume["url"]).content == CONTENT


def test_a_job_that_is_deleted_leaves_no_file(
    client: TestClient, job: str, upload: Any, worker: Worker, storage: Storage
) -> None:
    upload("log.txt", b"x")
    upload("best.safetensors", CONTENT)
    assert worker.finish("succeeded").status_code == 200
    assert client.delete(f"/jobs/{job}").status_code == 204
    assert stored(storage) == []


def test_curves_come_from_the_api_itself(client: TestClient, job: str, upload: Any, worker: Worker) -> None:
    """A page in a browser reads them, which a bucket would not let."""
    assert worker.post("evaluations", evaluation("student", 3, 0.5)).status_code == 204
    curves = b'{"recall": [0.0, 1.0]}'
    assert upload("curves-student-00000003.json", curves, kind="curves", step=3).status_code == 201
    path = f"/jobs/{job}/evaluations/3/curves"
    answer = client.get(path, follow_redirects=False)
    assert (answer.status_code, answer.content) == (200, curves)
    some = client.get(path, headers={"Range": "bytes=2-7"}, follow_redirects=False)
    assert (some.status_code, some.content) == (206, curves[2:8])


def test_an_attempt_that_ended_uploads_no_more(
    client: TestClient, job: str, upload: Any, worker: Worker, storage: Storage
) -> None:
    headers = worker.headers
    assert upload("log.txt", b"a").status_code == 201
    worker.finish("succeeded")
    assert worker.put("log.txt", b"b", **{"Content-Digest": digest(b"b")} | headers).status_code == 409
    body = {"size": 1, "sha256": hashlib.sha256(b"b").hexdigest()}
    assert worker.post("uploads/log.txt", body).status_code == 409
    assert worker.commit("log.txt", body | {"md5": [hashlib.md5(b"b").hexdigest()]}).status_code == 409
    assert download(client, f"/jobs/{job}/artifacts/log.txt").content == b"a"
    assert stored(storage) == ["log.txt"]


def test_the_sweep_removes_what_no_row_names(
    client: TestClient, job: str, upload: Any, worker: Worker, storage: Storage, database: Database
) -> None:
    upload("log.txt", b"kept")
    orphan = f"{job}/{'0' * 32}-log.txt"
    with storage.stage("0" * 64) as staged:
        staged.write(b"a crash came before the commit")
        storage.publish(staged, orphan)
    with storage.stage("1" * 64) as staged:
        staged.write(b"an upload that died")
    with storage.stage("3" * 64) as staged:
        staged.write(b"of somebody else, who has the folder or bucket too")
        storage.publish(staged, "backups/2024-01.tar")
    left = 2
    if storage.direct_uploads is not None:
        (part,) = storage.direct_uploads.presigned_parts("2" * 64, 5)
        httpx.put(part.url, content=b"alone", trust_env=False).raise_for_status()
        left = 3
    assert artifacts.sweep(database, storage) == 0  # all of it is young
    assert artifacts.sweep(database, storage, older_than=-60) == left
    with database.reading() as session:
        named = [row.path for row in session.query(Artifact)]
    assert sorted(file.key for file in storage.files()) == sorted([*named, "backups/2024-01.tar"])
    assert download(client, f"/jobs/{job}/artifacts/log.txt").content == b"kept"


def test_readiness_looks_at_the_storage(client: TestClient, monkeypatch: Any, storage: Storage) -> None:
    def red() -> list[str]:
        return [fault["pointer"] for fault in client.get("/ready").json()["errors"]]

    assert "storage" not in red()  # the broker is away in these tests

    def away() -> None:
        raise StorageUnavailable("the bucket answers SlowDown", "SlowDown")

    monkeypatch.setattr(storage, "probe", away)
    assert "storage" in red()
    assert "SlowDown" in client.get("/ready").text
