"""The proxy of the fault harness does what it says: a harness whose faults do nothing would prove nothing."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import HOST, Cut, Delay, Drop, Proxy

pytestmark = pytest.mark.faults  # beside what it is for

SILENCE = 0.3  # seconds in which a lost answer surely would have come


class Echo(socketserver.BaseRequestHandler):
    """Answers each piece with its server's name and the piece."""

    def handle(self) -> None:
        while piece := self.request.recv(1 << 16):
            self.server.heard.append(piece)  # type: ignore[attr-defined]
            self.request.sendall(self.server.name + piece)  # type: ignore[attr-defined]


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, name: bytes) -> None:
        super().__init__((HOST, 0), Echo)
        self.name = name
        self.heard: list[bytes] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: connections that break are what is tested."""

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.socket.getsockname()[1]


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer(b"a:") as server:
        yield server
        server.shutdown()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


def connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=5)


def ask(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(1 << 16)


def is_reset(connection: socket.socket) -> bool:
    """Whether the connection breaks, rather than ends or hangs."""
    connection.settimeout(5)
    try:
        connection.sendall(b"?")
        while connection.recv(1 << 16):
            pass
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def is_refused(port: int) -> bool:
    """Whether a new connection breaks, at once or with its first word."""
    try:
        with connect(port) as connection:
            return is_reset(connection)
    except ConnectionResetError:
        return True


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(SILENCE)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    return False


def test_a_calm_link_carries_both_ways(server: EchoServer, proxy: Proxy) -> None:
    with connect(proxy.link("calm", [server.address])) as connection:
        assert ask(connection, b"hello") == b"a:hello"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(10) == b""  # the end of one direction is carried too, and answered
    assert proxy.links["calm"].accepted == 1


def test_a_large_transfer_arrives_whole(server: EchoServer, proxy: Proxy) -> None:
    text = bytes(range(256)) * 8192  # 2 MiB
    with connect(proxy.link("large", [server.address])) as connection:
        threading.Thread(target=connection.sendall, args=(text,), daemon=True).start()
        while sum(map(len, server.heard)) < len(text):
            assert connection.recv(1 << 16)
    assert b"".join(server.heard) == text


def test_a_unix_socket_is_dialled(tmp_path: Path, proxy: Proxy) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with connect(proxy.link("unix", [path])) as connection:
            connection.sendall(b"hello")
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(10) == b"hello"


def test_connections_go_to_the_servers_in_turn_and_around_one_that_is_away(server: EchoServer, proxy: Proxy) -> None:
    with EchoServer(b"b:") as other:
        port = proxy.link("balanced", [server.address, other.address])

        def names() -> set[bytes]:
            found = set()
            for _ in range(4):
                with connect(port) as connection:
                    found.add(ask(connection, b"x")[:1])
            return found

        assert names() == {b"a", b"b"}
        other.shutdown()
        other.server_close()
        assert names() == {b"a"}


def test_a_cut_resets_what_is_open_and_what_comes(server: EchoServer, proxy: Proxy) -> None:
    port = proxy.link("cut", [server.address])
    with connect(port) as before:
        assert ask(before, b"1") == b"a:1"
        with proxy.troubled(Cut(), "cut"):
            assert is_reset(before)
            assert is_refused(port)
    with connect(port) as after:
        assert ask(after, b"2") == b"a:2"
    assert server.heard == [b"1", b"2"]


def test_another_link_is_left_alone(server: EchoServer, proxy: Proxy) -> None:
    proxy.link("cut", [server.address])
    with connect(proxy.link("calm", [server.address])) as connection, proxy.troubled(Cut(), "cut"):
        assert ask(connection, b"1") == b"a:1"


def test_a_delay_keeps_the_order(server: EchoServer, proxy: Proxy) -> None:
    with connect(proxy.link("slow", [server.address])) as connection:
        with proxy.troubled(Delay(0.1), "slow"):
            began = time.monotonic()
            assert ask(connection, b"1") == b"a:1"
            assert time.monotonic() - began >= 0.2  # there and back
        assert proxy.links["slow"].trouble is None
        assert ask(connection, b"2") == b"a:2"


def test_what_is_dropped_reaches_nobody_and_breaks_the_connection_afterwards(server: EchoServer, proxy: Proxy) -> None:
    port = proxy.link("lossy", [server.address])
    with connect(port) as touched, connect(port) as untouched:
        assert ask(untouched, b"0") == b"a:0"
        with proxy.troubled(Drop(), "lossy"):
            touched.sendall(b"lost")
            assert is_silent(touched)
        assert is_reset(touched)
        assert ask(untouched, b"1") == b"a:1"  # nothing of it was lost
    assert server.heard == [b"0", b"1"]
    assert proxy.links["lossy"].lost == len(b"lost")


def test_a_request_is_carried_out_whose_answer_is_dropped(server: EchoServer, proxy: Proxy) -> None:
    with connect(proxy.link("lossy", [server.address])) as connection:
        with proxy.troubled(Drop(answers=True), "lossy"):
            connection.sendall(b"done")
            assert is_silent(connection)
        assert is_reset(connection)
    assert server.heard == [b"done"]


def test_nobody_is_told_while_a_server_ends_behind_a_lossy_link(server: EchoServer, proxy: Proxy) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = proxy.link("lossy", [(HOST, listener.getsockname()[1])])
        with connect(port) as connection:
            accepted, _ = listener.accept()
            with proxy.troubled(Drop(), "lossy"):
                accepted.close()
                assert is_silent(connection)
            assert is_reset(connection)


def test_of_several_troubles_the_worst_counts_and_each_ends_by_itself(server: EchoServer, proxy: Proxy) -> None:
    port = proxy.link("troubled", [server.address])
    with proxy.troubled(Delay(0.05), "troubled"):
        with proxy.troubled(Cut(), "troubled"):
            with proxy.troubled(Drop(), "troubled"):
                assert is_refused(port)
            assert is_refused(port)
        with connect(port) as connection:
            began = time.monotonic()
            assert ask(connection, b"1") == b"a:1"
            assert time.monotonic() - began >= 0.1
    assert proxy.links["troubled"].trouble is None
