"""Uploads by workers: what is published, what is refused, and what is left behind (nothing)."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.database import Database
from api.models import Artifact
from api.services.files import artifacts, uploads
from api.services.files.uploads import parse_headers
from api.settings import Settings
from api.stores.local import LocalStorage
from tests.support.databases import ONE_DATABASE
from tests.support.worker_calls import WORKER, Worker
from wire.errors import DIGEST_MISMATCH


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


@pytest.fixture
def job(post_job: Callable[..., str], worker: Worker) -> str:
    """A job that `worker` has claimed."""
    found = post_job()
    assert worker.claim(found).status_code == 200
    return found


@pytest.fixture
def upload(worker: Worker) -> Callable[..., Any]:
    def put(name: str, content: bytes, **headers: str) -> Any:
        return worker.put(name, content, **{"Content-Digest": digest(content)} | headers)

    return put


@pytest.fixture
def stored(settings: Settings) -> Callable[[], list[str]]:
    """Every file in the storage folder, staged or published."""
    return lambda: sorted(path.name.partition("-")[2] for path in settings.storage.rglob("*") if path.is_file())


def names(client: TestClient, job: str) -> list[str]:
    return [item["name"] for item in client.get(f"/jobs/{job}/artifacts").json()["items"]]


@ONE_DATABASE
def test_an_upload_is_published(client: TestClient, job: str, upload: Any, worker: Worker) -> None:
    content = os.urandom(3_000_000)
    answer = upload("best.safetensors", content)
    assert answer.status_code == 201, answer.text
    artifact = answer.json()
    assert artifact == {
        "name": "best.safetensors",
        "kind": "weights",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "step": None,
        "attempt": 1,
        "created_at": artifact["created_at"],
        "url": f"/jobs/{job}/artifacts/best.safetensors",
    }
    assert client.get(f"/jobs/{job}/artifacts").json() == {"items": [artifact]}
    assert client.get(artifact["url"]).content == content


@ONE_DATABASE
def test_the_same_bytes_again_change_nothing(
    client: TestClient, job: str, upload: Any, stored: Callable[[], list[str]]
) -> None:
    first = upload("log.txt", b"one\n")
    again = upload("log.txt", b"one\n")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() | {"created_at": 0} == first.json() | {"created_at": 0}
    other = upload("log.txt", b"one\ntwo\n")
    assert (other.status_code, other.json()["size"]) == (201, 8)
    assert client.get(f"/jobs/{job}/artifacts/log.txt").text == "one\ntwo\n"
    assert stored() == ["log.txt"]  # what was replaced is gone


@ONE_DATABASE
def test_an_empty_file(client: TestClient, job: str, upload: Any) -> None:
    assert upload("log.txt", b"").status_code == 201
    assert client.get(f"/jobs/{job}/artifacts/log.txt").content == b""


@ONE_DATABASE
def test_older_checkpoints_are_pruned(
    client: TestClient, job: str, upload: Any, stored: Callable[[], list[str]], app: FastAPI
) -> None:
    for step in (10, 20, 30):
        assert upload(f"checkpoint-{step:08d}.pt", b"%d" % step).status_code == 201
    assert names(client, job) == ["checkpoint-00000020.pt", "checkpoint-00000030.pt"]
    assert stored() == ["checkpoint-00000020.pt", "checkpoint-00000030.pt"]
    with app.state.database.reading() as session:
        newest = artifacts.latest_checkpoint(session, job)
    assert newest is not None
    assert (newest.step, newest.sha256) == (30, hashlib.sha256(b"30").hexdigest())


def test_the_best_student_stays_beside_the_last_checkpoints(
    client: TestClient, post_job: Callable[..., str], spec: dict[str, Any], worker: Worker, upload: Any
) -> None:
    job = post_job(spec=spec | {"checkpoint": {"keep_last": 3}})
    worker.claim(job)
    upload("best.safetensors", b"the best of all")
    for step in range(10, 60, 10):
        upload(f"checkpoint-{step:08d}.pt", b"%d" % step)
    assert names(client, job) == ["best.safetensors", *(f"checkpoint-{step:08d}.pt" for step in (30, 40, 50))]
    assert client.get(f"/jobs/{job}/weights").content == b"the best of all"


def test_the_newest_attempts_checkpoint_counts(
    client: TestClient, job: str, upload: Any, worker: Worker, app: FastAPI
) -> None:
    upload("checkpoint-00000090.pt", b"late in the first attempt")
    assert worker.finish("released").status_code == 200
    claim = worker.claim(job).json()
    assert (claim["resume"]["name"], claim["resume"]["step"]) == ("checkpoint-00000090.pt", 90)
    upload("checkpoint-00000020.pt", b"early in the second")
    with app.state.database.reading() as session:
        newest = artifacts.latest_checkpoint(session, job)
    assert newest is not None
    assert newest.name == "checkpoint-00000020.pt"


@ONE_DATABASE
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Digest": digest(b"other")}, 400),
        ({"Content-Digest": "sha-256=:AAAA:"}, 400),
        ({"Content-Digest": "md5=:AAAA:"}, 400),
        ({"Content-Digest": ""}, 400),
        ({"Content-Length": "9"}, 400),
        ({"Content-Length": "3"}, 400),
        ({"Content-Length": "-1"}, 411),
        ({"Content-Length": "4_0"}, 411),
        ({"Fencing-Token": "2"}, 409),
        ({"Fencing-Token": "x"}, 422),
        ({"Authorization": "Bearer wrong"}, 401),
    ],
)
def test_refused_uploads_leave_nothing(
    client: TestClient, job: str, upload: Any, stored: Callable[[], list[str]], headers: dict[str, str], status: int
) -> None:
    answer = upload("log.txt", b"fine", **headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert names(client, job) == []
    assert stored() == []


@ONE_DATABASE
def test_a_length_is_required(client: TestClient, job: str, worker: Worker, stored: Callable[[], list[str]]) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"fine"

    answer = worker.put("log.txt", chunks(), **{"Content-Digest": digest(b"fine")})
    assert answer.status_code == 411
    assert stored() == []


@ONE_DATABASE
def test_an_attempt_that_ended_uploads_no_more(client: TestClient, job: str, upload: Any, worker: Worker) -> None:
    assert upload("log.txt", b"a").status_code == 201
    worker.finish("succeeded")
    assert upload("log.txt", b"b").status_code == 409
    assert client.get(f"/jobs/{job}/artifacts/log.txt").content == b"a"


def test_an_attempt_that_ends_during_the_upload_publishes_nothing(
    client: TestClient, job: str, upload: Any, worker: Worker, stored: Callable[[], list[str]], monkeypatch: Any
) -> None:
    publish = LocalStorage.publish

    def slow(self: LocalStorage, staged: Any, key: str) -> None:
        publish(self, staged, key)
        assert worker.finish("released").status_code == 200

    monkeypatch.setattr(LocalStorage, "publish", slow)
    assert upload("log.txt", b"late").status_code == 409
    assert names(client, job) == []
    assert stored() == []


@ONE_DATABASE
@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", ".hidden", "a%00b", "a%0a", "x" * 201, "a b"])
def test_names_are_plain(client: TestClient, job: str, upload: Any, stored: Callable[[], list[str]], name: str) -> None:
    assert upload(name, b"x").status_code in (404, 405, 422)
    assert stored() == []


def test_a_job_has_so_many_files_and_no_more(
    client: TestClient, job: str, upload: Any, stored: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_FILES", 2)
    for name in ("log.txt", "manifest.json", "log.txt"):
        assert upload(name, name.encode()).is_success
    refused = upload("best.safetensors", b"one too many")
    assert (refused.status_code, refused.json()["detail"]) == (413, "the job has 2 files already")
    assert names(client, job) == ["log.txt", "manifest.json"]
    assert len(stored()) == 2


@ONE_DATABASE
def test_a_staged_file_that_is_a_link_is_not_followed(
    settings: Settings, upload: Any, worker: Worker, tmp_path: Path, stored: Callable[[], list[str]]
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    content = b"a line"
    part = uploads.part_name(worker.attempt, "log.txt", len(content), hashlib.sha256(content).digest())
    (settings.storage / "staging" / part).symlink_to(outside)
    assert not upload("log.txt", content).is_success
    assert outside.read_bytes() == b"mine"


@ONE_DATABASE
def test_a_kind_or_step_that_nothing_tells(client: TestClient, job: str, upload: Any) -> None:
    answer = upload("model.onnx", b"x")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "kind"
    assert upload("model.onnx?kind=weights&step=7", b"x").json()["step"] == 7
    assert upload("early.pt?kind=checkpoint", b"x").json()["errors"][0]["pointer"] == "step"
    assert upload("log.txt?kind=poem", b"x").status_code == 422
    assert upload("log.txt?step=-1", b"x").status_code == 422


@ONE_DATABASE
def test_a_full_disk(client: TestClient, job: str, upload: Any, monkeypatch: Any, stored: Any) -> None:
    def full(self: LocalStorage, staged: Any, key: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "publish", full)
        answer = upload("log.txt", b"x")
    assert (answer.status_code, stored()) == (507, [])
    assert "CROSSKD_STORAGE" in answer.json()["remedy"]
    assert upload("log.txt", b"x").status_code == 201


@ONE_DATABASE
def test_bytes_that_went_bad_are_told_as_such(job: str, upload: Any) -> None:
    """A worker that knows it was right sends all of it once more."""
    answer = upload("log.txt", b"fine", **{"Content-Digest": digest(b"other")})
    assert (answer.status_code, answer.json()["type"]) == (400, DIGEST_MISMATCH)


def test_no_such_attempt(client: TestClient) -> None:
    headers = WORKER | {"Fencing-Token": "1", "Content-Digest": digest(b"x")}
    for attempt in ("x", "0" * 32, "%00"):
        answer = client.put(f"/worker/attempts/{attempt}/artifacts/log.txt", content=b"x", headers=headers)
        assert answer.status_code == 404


@ONE_DATABASE
def test_an_upload_writes_in_pieces(client: TestClient, job: str, upload: Any, monkeypatch: Any) -> None:
    """Memory stays at one piece, however large the body."""
    monkeypatch.setattr(uploads, "WRITE_SIZE", 1000)
    content = os.urandom(100_500)
    assert upload("best.safetensors", content).status_code == 201
    assert client.get(f"/jobs/{job}/weights").content == content


@ONE_DATABASE
def test_the_sweep_removes_what_no_row_names(
    client: TestClient, database: Database, app: FastAPI, job: str, upload: Any, settings: Settings
) -> None:
    upload("log.txt", b"kept")
    storage: LocalStorage = app.state.storage
    orphan = f"{job}/{'0' * 32}-log.txt"  # its key is as old as its bytes
    with storage.stage("0" * 64) as staged:
        staged.write(b"a crash came before the commit")
        storage.publish(staged, orphan)
    (settings.storage / "staging" / "left").write_bytes(b"a crash came before the publication")
    assert artifacts.sweep(database, storage) == 0  # young: its transaction may be about to commit
    long_ago = time.time() - artifacts.ORPHAN_SECONDS - 1
    for path in settings.storage.rglob("*"):
        if path.is_file():
            os.utime(path, (long_ago, long_ago))
    assert artifacts.sweep(database, storage) == 2
    assert [stored.key for stored in storage.files()] == _paths(database)
    assert client.get(f"/jobs/{job}/artifacts/log.txt").content == b"kept"


def test_the_sweep_beside_another_database_removes_nothing(
    client: TestClient, app: FastAPI, job: str, upload: Any, empty_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An API that is started with an empty or a wrong one must not take all there is for orphans."""
    upload("log.txt", b"kept")
    other = Database(f"sqlite:///{empty_file}")
    assert artifacts.sweep(other, app.state.storage, older_than=-60) == 0
    other.close()
    assert "1 files are left alone" in caplog.text
    assert client.get(f"/jobs/{job}/artifacts/log.txt").content == b"kept"


def test_the_sweep_knows_deleted_jobs(
    client: TestClient, database: Database, app: FastAPI, job: str, upload: Any, worker: Worker, monkeypatch: Any
) -> None:
    """What a crash after the deletion of a job has left."""
    upload("log.txt", b"left")
    worker.finish("succeeded")
    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete", lambda *_: None)
        assert client.delete(f"/jobs/{job}").status_code == 204
    assert [stored.size for stored in app.state.storage.files()] == [4]
    assert artifacts.sweep(database, app.state.storage, older_than=-60) == 1
    assert list(app.state.storage.files()) == []


def _paths(database: Database) -> list[str]:
    with database.reading() as session:
        return [row.path for row in session.query(Artifact)]


@pytest.mark.parametrize(
    ("name", "kind", "step", "expected"),
    [
        ("best.safetensors", None, 5, ("weights", 5)),
        ("last.safetensors", None, None, ("weights", None)),
        ("checkpoint-00000120.pt", None, None, ("checkpoint", 120)),
        ("checkpoint-00000120.pt", None, 7, ("checkpoint", 7)),
        ("log.txt", None, None, ("log", None)),
        ("manifest.json", None, None, ("manifest", None)),
        ("anything", "log", None, ("log", None)),
    ],
)
def test_names_tell_kind_and_step(name: str, kind: Any, step: int | None, expected: Any) -> None:
    announced = parse_headers(name, kind, step, "3", f"sha-512=:AAAA:, {digest(b'abc')}")
    assert (announced.kind, announced.step, announced.size) == (*expected, 3)
    assert announced.sha256 == hashlib.sha256(b"abc").digest()


@ONE_DATABASE
def test_the_folder_of_a_job_is_its_own(job: str, upload: Any, settings: Settings) -> None:
    upload("log.txt", b"x")
    folders = {path.relative_to(settings.storage).parts[0] for path in settings.storage.rglob("*") if path.is_file()}
    assert folders == {job}
    assert all(Path(settings.storage, folder).is_dir() for folder in folders)
