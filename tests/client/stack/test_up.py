"""`crosskd up` as a process: its complaints, its end, and what it leaves behind, which is nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from client.errors import StackError
from client.sdk import Crosskd
from client.stack import services
from client.stack.home import Home, read_owner
from client.stack.stack import Stack
from tests.support.crosskd_command import DEMO, UP, up
from tests.support.processes import command_of, processes_of
from tests.support.waiting import until

SECONDS = 120.0  # for a stack to come up on a machine that does other things too


def test_killed_it_takes_everything_with_it_and_another_takes_its_place(tmp_path: Path) -> None:
    """That one is told to stop in the end: by SIGTERM. By Ctrl-C: test_up_host.py."""
    with up(tmp_path) as process:
        process.kill()
        process.wait()
        until(lambda: processes_of(tmp_path) == [])
    with up(tmp_path, "--json") as process:  # and the home is free, but for one at a time
        owner = read_owner(tmp_path)
        assert owner is not None
        assert owner.pid == process.pid
        with Crosskd(owner.url) as client:
            assert client.health().status == "ok"
        assert len(processes_of(tmp_path)) >= 5  # itself, Valkey, the API, the worker and its pool
        shared = [path for path in tmp_path.rglob("*") if not path.is_symlink() and path.lstat().st_mode & 0o077]
        assert [path for path in shared if path.exists()] == []  # nothing in it is anybody else's
        environment = {**os.environ, "CROSSKD_HOME": str(tmp_path)}
        second = subprocess.run(UP, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
        assert second.returncode == 1
        assert f"process {process.pid} at http://127.0.0.1:" in second.stderr
        assert "Traceback" not in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    until(lambda: processes_of(tmp_path) == [])
    assert read_owner(tmp_path) is None


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_it(tmp_path: Path) -> None:
    with up(tmp_path) as process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(SECONDS) == 0
    until(lambda: processes_of(tmp_path) == [])
    assert read_owner(tmp_path) is None


def test_a_taken_port_and_a_home_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    with socket.create_server((services.HOST, 0)) as server:
        port = str(server.getsockname()[1])
        environment = {**os.environ, "CROSSKD_HOME": str(tmp_path / "home"), "CROSSKD_PORT": port}
        done = subprocess.run(UP[:-2], env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 1
    assert f"Port {port}" in done.stderr
    assert "CROSSKD_PORT=" in done.stderr
    assert "Traceback" not in done.stderr

    (tmp_path / "file").write_text("")
    environment = {**os.environ, "CROSSKD_HOME": str(tmp_path / "file")}
    done = subprocess.run(UP, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_part_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    broken = {"CROSSKD_LEASE_SECONDS": "soon"}
    with pytest.raises(StackError) as caught:
        Stack(Home(tmp_path), port=0, environment=broken).start()
    assert caught.value.message == "api ended while it started."
    assert "CROSSKD_LEASE_SECONDS" in caught.value.remedy  # in the API's own words
    assert "Traceback" not in caught.value.remedy
    assert processes_of(tmp_path) == []
    home = Home(tmp_path)
    home.lock()  # it is free again
    home.unlock()


def test_a_database_that_cannot_be_migrated_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path)
    shutil.copy(sys.executable, home / "crosskd.db")  # no database
    with pytest.raises(StackError) as caught:
        Stack(home, port=0).start()
    assert caught.value.message == "migrate could not bring the database up to date."
    assert "database" in caught.value.remedy
    assert processes_of(tmp_path) == []


def test_a_stop_during_the_start_is_heeded(tmp_path: Path) -> None:
    stack = Stack(Home(tmp_path), port=0)
    stack.request_stop()
    stack.start()
    stack.stop()
    assert processes_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [*DEMO, "--home", str(tmp_path)]
    environment = {**os.environ, "CROSSKD_DEVICES": "cpu"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        try:
            until(lambda: any("worker.training.run" in command_of(pid) for pid in processes_of(tmp_path)), SECONDS)
            demo.send_signal(number)
            output, errors = demo.communicate(timeout=SECONDS)
        finally:
            demo.kill()
    assert demo.returncode == 130
    assert output.endswith("Stopping …\n")
    assert errors == ""
    until(lambda: processes_of(tmp_path) == [])
