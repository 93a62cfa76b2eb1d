"""Uploads in pieces. With connections that break: test_downloads.py; with servers that die: api/test_server.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.services.files import uploads
from api.settings import Settings
from tests.support.databases import ONE_DATABASE
from tests.support.sending import CONTENT, NAME, Upload
from tests.support.worker_calls import Worker


@pytest.fixture
def job(post_job: Callable[..., str], worker: Worker) -> str:
    found = post_job()
    worker.claim(found)
    return found


@pytest.fixture
def upload(client: TestClient, job: str, worker: Worker) -> Upload:
    return Upload(client, f"/worker/attempts/{worker.attempt}/artifacts/{NAME}", worker.headers)


@pytest.fixture
def staged(settings: Settings) -> Callable[[], list[Path]]:
    return lambda: list((settings.storage / "staging").iterdir())


def test_a_file_comes_in_pieces(client: TestClient, job: str, upload: Upload, staged: Any) -> None:
    assert upload.arrived() == 0
    for offset, stop in ((0, 1_000_000), (1_000_000, 1_000_001)):
        piece = upload.go_on(offset, stop)
        assert (piece.status_code, piece.content, piece.headers["upload-offset"]) == (204, b"", str(stop))
        assert upload.arrived() == stop
    assert client.get(f"/jobs/{job}/artifacts/{NAME}").status_code == 404
    last = upload.go_on(1_000_001)
    assert last.status_code == 201, last.text
    assert last.json()["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert client.get(f"/jobs/{job}/artifacts/{NAME}").content == CONTENT
    assert staged() == []


@ONE_DATABASE
def test_a_wrong_offset_is_told_the_right_one(upload: Upload) -> None:
    upload.go_on(0, 1000)
    for offset in (999, 1001, 2_999_999):
        refused = upload.go_on(offset)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/wrong-upload-offset")
        assert refused.headers["upload-offset"] == "1000"
        assert refused.json()["remedy"] == "Go on at byte 1000."
    assert upload.go_on(1000).status_code == 201


@ONE_DATABASE
def test_nothing_has_arrived_of_what_nobody_began(upload: Upload, staged: Any) -> None:
    refused = upload.go_on(1000)
    assert (refused.status_code, refused.headers["upload-offset"]) == (409, "0")
    assert staged() == []


def test_an_answer_that_was_lost_is_had_again(client: TestClient, job: str, upload: Upload) -> None:
    first = upload.go_on(0)
    assert upload.arrived() == len(CONTENT)
    again = upload.go_on(len(CONTENT))
    assert (again.status_code, again.json()) == (200, first.json())


@ONE_DATABASE
def test_all_that_is_missing_may_be_the_publication(upload: Upload, monkeypatch: Any) -> None:
    """The process died between the last byte and the database."""

    def die(*_: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(uploads, "_publish", die)
        assert upload.go_on(0).status_code == 500
    assert upload.arrived() == len(CONTENT)
    assert upload.go_on(len(CONTENT)).status_code == 201


@ONE_DATABASE
def test_other_bytes_are_refused_and_forgotten(upload: Upload, staged: Any) -> None:
    upload.go_on(0, 1000)
    upload.content = CONTENT[:1000] + bytes(len(CONTENT) - 1000)
    refused = upload.go_on(1000)
    assert (refused.status_code, refused.json()["detail"]) == (400, "the bytes that came are not those of the digest")
    assert (upload.arrived(), staged()) == (0, [])


@ONE_DATABASE
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Length": "999"}, 400),
        ({"Repr-Digest": ""}, 400),
        ({"Content-Length": "999"}, 400),
        ({"Upload-Offset": "-1"}, 422),
        ({"Upload-Offset": "x"}, 422),
        ({"Upload-Length": "9" * 30}, 422),
        ({"Fencing-Token": "2"}, 409),
        ({"Authorization": "Bearer x"}, 401),
    ],
)
def test_a_head_that_cannot_be_is_refused(upload: Upload, staged: Any, headers: dict[str, str], status: int) -> None:
    answer = upload.go_on(0, 1000, **headers)
    assert answer.status_code == status, answer.text
    assert staged() == []
