"""Connections that say nothing, or take nothing, over real sockets, at an API process with few descriptors."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from api.http.deadlines import LOG_SECONDS, RareLog
from api.models import Base
from tests.support.api_process import Api
from tests.support.waiting import until
from tests.support.worker_calls import DIGEST

HEAD = b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
MOST = 40  # connections
ESTABLISHED = "01"
GET = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
# An API that may have few descriptors.
PROGRAM = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from api.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    home = tmp_path_factory.mktemp("home")
    (home / "data").mkdir()
    url = f"sqlite:///{home / 'crosskd.db'}"
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    engine.dispose()
    environment = {
        "CROSSKD_HOME": str(home),
        "CROSSKD_DATABASE_URL": url,
        "CROSSKD_BROKER_URL": "redis://127.0.0.1:1/0",
        "CROSSKD_WORKER_TOKEN_SHA256": DIGEST,
        "CROSSKD_HEADER_SECONDS": "2",
        "CROSSKD_TRANSFER_STALL_SECONDS": "2",
        "CROSSKD_MAX_CONNECTIONS": str(MOST),
    }
    started = Api(environment, program=PROGRAM)
    yield started.wait()
    started.close()


@contextlib.contextmanager
def connected(api: Api, first: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
        connection.sendall(first)
        yield connection


def is_closed(connection: socket.socket) -> bool:
    """By the other side; what it has sent before is read away."""
    while select.select([connection], [], [], 0)[0]:
        try:
            if not connection.recv(65536):
                return True
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize(
    "first", [b"", b"GET /health HT", HEAD, HEAD + b"{", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET"]
)
def test_who_says_nothing_more_is_cut_off(api: Api, first: bytes) -> None:
    with connected(api, first) as connection:
        until(lambda: is_closed(connection))


@pytest.mark.parametrize("first", [b"GET /health HTTP/1.1\r\n", HEAD])
def test_a_drip_is_no_sign_of_life(api: Api, first: bytes) -> None:
    with connected(api, first) as connection:

        def dripped() -> bool:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"x")
            return is_closed(connection)

        until(dripped)


def test_who_takes_nothing_is_cut_off(api: Api) -> None:
    wanted = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", api.port))
        connection.sendall(wanted)
        until(lambda: state_at_the_server(api, connection) != ESTABLISHED)  # nothing is read here


def state_at_the_server(api: Api, connection: socket.socket) -> str:
    """Of the server's end of a connection; empty where the kernel has forgotten it."""
    ends = (f":{api.port:04X}", f":{connection.getsockname()[1]:04X}")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if (local[-5:], remote[-5:]) == ends:
            return state
    return ""


def test_silent_connections_stop_nobody_and_fill_no_log(api: Api) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(api)) for _ in range(300)]
        refused = [connection for connection in silent if b" 503 " in peek(connection)]
        assert refused  # how many depends on how fast they came: those before may have been cut off
        until(lambda: all(map(is_closed, silent)))
    until(lambda: api.http.get("/health").is_success)


def peek(connection: socket.socket) -> bytes:
    connection.settimeout(0.2)
    try:
        return connection.recv(100)
    except (TimeoutError, ConnectionError):
        return b""


def test_many_events_are_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    times = iter((0.0, 1.0, 2.0, LOG_SECONDS, LOG_SECONDS + 1))
    rare = RareLog(lambda: next(times))
    for _ in range(5):
        rare.warning("refused")
    assert [record.getMessage() for record in caplog.records] == [
        "refused", "refused (2 more since it was told last)",
    ]  # fmt: skip
