"""Downloads, by the ASGI client and, where the connection matters, from a real server."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.http import file_response
from api.services.files import uploads
from api.settings import Settings
from tests.support.databases import ONE_DATABASE
from tests.support.sending import NAME, Upload, half_sent
from tests.support.worker_calls import Worker, upload

CONTENT = bytes(range(256)) * 8192  # 2 MiB, of which every part is recognisable
SHA256 = hashlib.sha256(CONTENT)
ETAG = f'"{SHA256.hexdigest()}"'


def told(answer: Any) -> dict[str, str]:
    """What the headers say of the file."""
    return {name: value for name, value in answer.headers.items() if name != "x-request-id"}


@pytest.fixture
def job(post_job: Callable[..., str], worker: Worker) -> str:
    """A job that has made weights and a log."""
    found = post_job()
    worker.claim(found)
    upload(worker, "best.safetensors", CONTENT)
    upload(worker, "log.txt", "begin\nend \N{CHECK MARK}\n".encode())
    upload(worker, "manifest.json", b"{}")
    return found


@ONE_DATABASE
def test_the_weights(client: TestClient, job: str) -> None:
    answer = client.get(f"/jobs/{job}/weights")
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["etag"] == ETAG
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(SHA256.digest()).decode()}:"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="best.safetensors"'
    assert told(client.get(f"/jobs/{job}/artifacts/best.safetensors")) == told(answer)


@ONE_DATABASE
def test_media_types(client: TestClient, job: str) -> None:
    log = client.get(f"/jobs/{job}/artifacts/log.txt")
    assert log.headers["content-type"] == "text/plain; charset=utf-8"
    assert log.text.endswith("\N{CHECK MARK}\n")
    assert client.get(f"/jobs/{job}/artifacts/manifest.json").headers["content-type"] == "application/json"


@ONE_DATABASE
def test_head_is_get_without_the_body(client: TestClient, job: str) -> None:
    for path in (f"/jobs/{job}/weights", f"/jobs/{job}/artifacts/log.txt"):
        get, head = client.get(path), client.head(path, headers={"Range": "bytes=1-2"})
        assert (head.status_code, head.content) == (200, b"")
        assert told(head) == told(get)


@ONE_DATABASE
@pytest.mark.parametrize(
    ("value", "start", "stop"), [("bytes=5-8", 5, 9), ("bytes=-3", -3, None), ("bytes=2000000-", 2_000_000, None)]
)
def test_ranges(client: TestClient, job: str, value: str, start: int, stop: int | None) -> None:
    answer = client.get(f"/jobs/{job}/weights", headers={"Range": value, "If-Range": ETAG})
    expected = CONTENT[start:stop]
    first = start % len(CONTENT)
    assert answer.status_code == 206
    assert answer.content == expected
    assert answer.headers["content-length"] == str(len(expected))
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(CONTENT)}"
    assert answer.headers["etag"] == ETAG


@ONE_DATABASE
def test_a_download_goes_on_where_it_broke_off(client: TestClient, job: str) -> None:
    path = f"/jobs/{job}/weights"
    parts = [
        client.get(path, headers={"Range": f"bytes={at}-{at + 299_999}"}).content for at in range(0, 2**21, 300_000)
    ]
    assert b"".join(parts) == CONTENT


@ONE_DATABASE
def test_preconditions(client: TestClient, job: str) -> None:
    path = f"/jobs/{job}/weights"
    unchanged = client.get(path, headers={"If-None-Match": ETAG})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", ETAG)
    assert client.get(path, headers={"If-None-Match": '"old"'}).status_code == 200
    failed = client.get(path, headers={"If-Match": '"old"'})
    assert (failed.status_code, failed.headers["content-type"]) == (412, "application/problem+json")
    behind = client.get(path, headers={"Range": "bytes=9999999-"})
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")
    assert client.get(path, headers={"Range": "bytes=0-1,5-6"}).content == CONTENT
    assert client.get(path, headers={"Range": "bytes=0-1", "If-Range": '"old"'}).content == CONTENT


def test_weights_that_are_not_there_yet(client: TestClient, post_job: Callable[..., str], worker: Worker) -> None:
    job = post_job()
    for status in ("queued", "running"):
        answer = client.get(f"/jobs/{job}/weights")
        assert answer.status_code == 404
        assert answer.json()["detail"] == f"there are no weights yet: the job is {status}"
        assert "after its first evaluation" in answer.json()["remedy"]
        worker.claim(job)
    failure = {"failure_class": "user", "message": "no"}
    assert worker.finish("failed", failure=failure).status_code == 200
    assert "never will: it failed" in client.get(f"/jobs/{job}/weights").json()["detail"]
    assert client.head(f"/jobs/{job}/weights").status_code == 404


def test_weights_of_a_cancelled_job(client: TestClient, post_job: Callable[..., str]) -> None:
    job = post_job()
    client.post(f"/jobs/{job}/cancel")
    assert "never will: it was cancelled" in client.get(f"/jobs/{job}/weights").json()["detail"]


def test_an_unknown_artifact_names_the_known(client: TestClient, job: str, post_job: Callable[..., str]) -> None:
    known = "It has: best.safetensors, log.txt, manifest.json."
    for name, remedy in {"other": known, "logs.txt": f"Did you mean `log.txt`? {known}"}.items():
        answer = client.get(f"/jobs/{job}/artifacts/{name}")
        assert answer.status_code == 404
        assert answer.json()["remedy"] == remedy
    empty = client.get(f"/jobs/{post_job()}/artifacts/log.txt")
    assert empty.json()["remedy"] == "It has none yet: the job is queued."


@pytest.mark.parametrize("job_id", ["0" * 32, "x", "%00", "..%2f", "01"])
def test_no_such_job(client: TestClient, job_id: str) -> None:
    for what in ("artifacts", "artifacts/log.txt", "weights"):
        assert client.get(f"/jobs/{job_id}/{what}").status_code == 404


@ONE_DATABASE
@pytest.mark.parametrize(
    "name",
    ["..", "../", "%2e%2e", "%2e%2e%2f", "..%2f..%2fcrosskd.db", "%2fetc%2fpasswd", "log.txt%00", "%00", "log.txt%0a",
     "staging", "..%5c", "%ff", "%c0%ae%c0%ae", "x" * 5000],
)  # fmt: skip
def test_names_never_lead_outside(address: str, job: str, name: str) -> None:
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.request("GET", f"/jobs/{job}/artifacts/{name}")  # as written: other clients tidy `..` away
    answer = connection.getresponse()
    if answer.status == 307:  # a path that ends in a slash is sent to the one that does not
        assert name.endswith(("/", "%2f"))
        answer.read()
        connection.request("GET", f"/jobs/{job}/artifacts/..")
        answer = connection.getresponse()
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
    connection.close()


@ONE_DATABASE
def test_a_link_in_the_storage_is_no_artifact(client: TestClient, job: str, settings: Settings) -> None:
    (settings.storage / job / "passwd").symlink_to("/etc/passwd")
    assert client.get(f"/jobs/{job}/artifacts/passwd").status_code == 404


@ONE_DATABASE
@pytest.mark.parametrize("damage", ["gone", "short"])
def test_damaged_storage_is_said_not_served(client: TestClient, job: str, settings: Settings, damage: str) -> None:
    (stored,) = (settings.storage / job).glob("*-best.safetensors")
    if damage == "gone":
        stored.unlink()
    else:
        stored.write_bytes(CONTENT[:-1])
    answer = client.get(f"/jobs/{job}/weights")
    assert answer.status_code == 410
    assert answer.json()["detail"] == "the stored file of best.safetensors is gone or damaged"


@pytest.fixture
def address(app: FastAPI, client: TestClient) -> Iterator[str]:
    """The same application behind a real server."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def sending(client: TestClient, job: str, worker: Worker) -> Upload:
    """A file that the job has not yet."""
    return Upload(client, f"/worker/attempts/{worker.attempt}/artifacts/{NAME}", worker.headers)


def test_a_replaced_artifact_while_an_old_download_goes_on(
    address: str, client: TestClient, job: str, worker: Worker
) -> None:
    old = os.urandom(30_000_000)  # more than all buffers between the two ends
    upload(worker, "best.safetensors", old)
    with httpx.stream("GET", f"{address}/jobs/{job}/weights") as answer:
        chunks = answer.iter_bytes(65_536)
        begun = next(chunks)
        upload(worker, "best.safetensors", CONTENT)
        assert client.get(f"/jobs/{job}/weights").content == CONTENT
        got = begun + b"".join(chunks)
    assert answer.headers["etag"] == f'"{hashlib.sha256(got).hexdigest()}"'
    assert got == old


def test_an_upload_that_breaks_off_is_not_published(address: str, job: str, worker: Worker, settings: Settings) -> None:
    host, port = address.removeprefix("http://").split(":")
    headers = worker.headers | {
        "Host": host,
        "Content-Length": "5000000",
        "Content-Digest": f"sha-256=:{base64.b64encode(bytes(32)).decode()}:",
    }
    head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    path = f"/worker/attempts/{worker.attempt}/artifacts/last.safetensors"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"PUT {path} HTTP/1.1\r\n{head}\r\n".encode() + bytes(3_000_000))
        staging = settings.storage / "staging"
        _until(lambda: any(path.stat().st_size for path in staging.iterdir()))
    assert worker.put("last.safetensors", b"", **{"Content-Digest": f"sha-256=:{'A' * 43}=:"}).status_code == 400
    assert not list((settings.storage / job).glob("*-last.safetensors"))


def test_who_is_silent_loses_the_part_to_who_comes_back(
    address: str,
    client: TestClient,
    job: str,
    sending: Upload,
    monkeypatch: Any,
) -> None:
    """A connection whose other end has vanished looks open for ever."""
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.5)
    with half_sent(address, sending, 2_000_000):
        _until(lambda: sending.arrived() > 0)
        while (answer := sending.go_on(sending.arrived())).status_code == 409:
            assert answer.json()["type"] in ("/problems/request-in-flight", "/problems/wrong-upload-offset")
            time.sleep(0.05)
    assert answer.status_code == 201
    assert client.get(f"/jobs/{job}/artifacts/{NAME}").content == sending.content


def test_who_was_silent_and_goes_on_is_told_to_come_back(
    address: str, job: str, sending: Upload, monkeypatch: Any
) -> None:
    """Not that the upload is refused: a worker would end its training for it."""
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.1)
    with half_sent(address, sending, 100) as connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, json.loads(answer.read())["detail"]) == (503, "nothing more of the upload came")
        assert answer.headers["Retry-After"] == "2"


def test_a_disk_that_is_not_mounted_is_away_not_empty(client: TestClient, job: str, settings: Settings) -> None:
    elsewhere = settings.storage.rename(settings.storage.with_name("elsewhere"))
    settings.storage.mkdir()
    assert client.get(f"/jobs/{job}/weights").status_code == 503
    settings.storage.rmdir()
    elsewhere.rename(settings.storage)
    assert client.get(f"/jobs/{job}/weights").content == CONTENT


@ONE_DATABASE
def test_a_connection_that_is_cut_goes_on_where_it_was(
    address: str,
    client: TestClient,
    job: str,
    sending: Upload,
) -> None:
    with half_sent(address, sending, 2_000_000):
        _until(lambda: sending.arrived() > 0)
    while (answer := sending.go_on(sending.arrived())).status_code == 409:
        time.sleep(0.01)  # the server has not noticed yet
    assert answer.status_code == 201
    assert int(answer.request.headers["upload-offset"]) > 0
    assert client.get(f"/jobs/{job}/artifacts/{NAME}").content == sending.content


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@ONE_DATABASE
def test_the_description_has_no_double(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths["/jobs/{job}/weights"]) == {"get"}
    assert json.dumps(paths).count('"operationId": "download_weights"') == 1


@ONE_DATABASE
@pytest.mark.parametrize("at_hand", [0, 1000, None])  # bytes of each piece that the system has in memory; None: unknown
def test_what_is_not_in_memory_is_read_from_the_disk(
    client: TestClient, job: str, monkeypatch: pytest.MonkeyPatch, at_hand: int | None
) -> None:
    real = os.preadv

    def preadv(file: int, buffers: Any, place: int, flags: int) -> int:
        if at_hand is None:
            raise OSError(errno.EOPNOTSUPP, "the file system cannot tell")
        if at_hand == 0 or place % 3 == 0:
            raise BlockingIOError
        return real(file, [memoryview(buffers[0])[:at_hand]], place, flags)

    monkeypatch.setattr(file_response, "_NOWAIT", getattr(os, "RWF_NOWAIT", 0) or 8)
    monkeypatch.setattr(os, "preadv", preadv)
    assert client.get(f"/jobs/{job}/weights").content == CONTENT
    part = client.get(f"/jobs/{job}/weights", headers={"Range": "bytes=1048577-"})
    assert (part.status_code, part.content) == (206, CONTENT[1048577:])
