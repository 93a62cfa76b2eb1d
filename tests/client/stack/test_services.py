from __future__ import annotations

import hashlib
import os
import signal
import socket
from pathlib import Path

import pytest

from client.errors import StackError
from client.stack import services
from client.stack.home import Home
from tests.support.waiting import until


def test_a_taken_port_is_named_with_its_remedy() -> None:
    with socket.create_server((services.HOST, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(StackError) as caught:
            services.free_port(port)
    assert f"Port {port}" in caught.value.message
    assert f"CROSSKD_PORT={port + 1}" in caught.value.remedy


def test_a_port_just_left_can_be_used_again() -> None:
    with socket.create_server((services.HOST, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((services.HOST, port)), server.accept()[0] as end:
            end.shutdown(socket.SHUT_RDWR)  # this side goes to TIME_WAIT
    assert services.free_port(port) == port


def test_no_free_port_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "HOST", "192.0.2.1")  # an address of no machine: nothing can be bound there
    with pytest.raises(StackError, match="no free port"):
        services.free_port(0)


def test_the_port_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSKD_PORT", raising=False)
    assert services.configured_port() == services.DEFAULT_PORT
    monkeypatch.setenv("CROSSKD_PORT", "9000")
    assert services.configured_port() == 9000


@pytest.mark.parametrize("text", ["x", "-1", "65536", "80.5"])
def test_a_port_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CROSSKD_PORT", text)
    with pytest.raises(StackError, match="no port"):
        services.configured_port()


def test_a_grace_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="CROSSKD_GRACE_SECONDS is 'abc'"):
        services.worker(Home(tmp_path), {"CROSSKD_GRACE_SECONDS": "abc"})


def test_each_side_is_told_only_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSKD_DATA_ROOTS", os.pathsep.join(["/data", "relative"]))
    monkeypatch.setenv("CROSSKD_WORKER_TOKEN", "a stranger's")
    monkeypatch.setenv("CROSSKD_WORKER_TOKEN_SHA256", "a stranger's")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("CROSSKD_DATABASE_URL", raising=False)
    home = Home(tmp_path)
    environments = services.environments(
        home, "http://api", "redis://broker", [home / "data"], {"CROSSKD_LEASE_SECONDS": "3"}
    )

    assert environments.api["CROSSKD_WORKER_TOKEN_SHA256"] == hashlib.sha256(home.worker_token().encode()).hexdigest()
    assert "CROSSKD_WORKER_TOKEN" not in environments.api
    assert environments.worker["CROSSKD_WORKER_TOKEN"] == home.worker_token()
    assert "CROSSKD_WORKER_TOKEN_SHA256" not in environments.worker
    assert environments.api["CROSSKD_DATABASE_URL"] == f"sqlite:///{tmp_path}/crosskd.db"
    assert "CROSSKD_DATABASE_URL" not in environments.worker
    for side in (environments.api, environments.worker):
        roots = side["CROSSKD_DATA_ROOTS"].split(os.pathsep)
        assert roots == [str(tmp_path / "data"), "/data", str(Path("relative").absolute())]
        assert side["CROSSKD_LEASE_SECONDS"] == "3"
        assert side["NO_PROXY"] == "example.org,127.0.0.1,localhost"


def test_a_database_of_ones_own_is_kept(tmp_path: Path) -> None:
    url = "postgresql+psycopg://localhost/crosskd"
    environments = services.environments(Home(tmp_path), "", "", [], {"CROSSKD_DATABASE_URL": url})
    assert environments.api["CROSSKD_DATABASE_URL"] == url
    assert "CROSSKD_DATABASE_URL" not in environments.worker


def test_the_keys_to_bucket_and_database_are_for_the_api_alone(tmp_path: Path) -> None:
    keys = dict.fromkeys(services.SECRETS_OF_THE_API, "secret")
    environments = services.environments(Home(tmp_path), "", "", [], {"CROSSKD_STORAGE_URL": "s3://bucket", **keys})
    assert keys.items() <= environments.api.items()
    assert environments.api["CROSSKD_STORAGE_URL"] == "s3://bucket"
    assert "secret" not in environments.worker.values()


def test_the_broker_keeps_what_it_was_told_and_asks_for_its_password(tmp_path: Path) -> None:
    home = Home(tmp_path / 'a "quoted" home')
    port, password = services.free_port(0), services.new_password()
    broker = services.broker(home, port, password)
    assert not broker.ready()
    broker.child.start()
    try:
        until(broker.ready)
        assert b"NOAUTH" in ask(port, "SET message 1")
        assert ask(port, f"AUTH {password}", "SET message 1").endswith(b"+OK\r\n")
        assert broker.child.pid is not None
        broker.child.stop()
        broker.child.start()
        until(broker.ready)
        assert b"$1\r\n1\r\n" in ask(port, f"AUTH {password}", "GET message")
    finally:
        broker.child.stop()


def test_a_broker_whose_folder_is_gone_starts_empty(tmp_path: Path) -> None:
    home = Home(tmp_path)
    port, password = services.free_port(0), services.new_password()
    broker = services.broker(home, port, password)
    broker.child.start()
    try:
        until(broker.ready)
        assert ask(port, f"AUTH {password}", "SET message 1").endswith(b"+OK\r\n")
        assert broker.child.pid is not None
        os.kill(broker.child.pid, signal.SIGKILL)
        until(lambda: not broker.child.running)
        for path in sorted((home / "valkey").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (home / "valkey").rmdir()
        until(broker.child.restart_when_due)
        until(broker.ready)
        assert b"$-1\r\n" in ask(port, f"AUTH {password}", "GET message")
    finally:
        broker.child.stop()


def ask(port: int, *commands: str) -> bytes:
    """The answers to some commands of Valkey, in one."""
    with socket.create_connection((services.HOST, port), timeout=5) as connection:
        connection.sendall("".join(f"{command}\r\n" for command in (*commands, "QUIT")).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(4096):
            answer += more
    return answer.removesuffix(b"+OK\r\n")
