"""Ranks as processes: how they are started, stopped and outlived. What they do is a few lines without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crosskd.engine.launch import RankEnd, _order, _prepare_environment

# One launch after another, each with a folder of its own. To import torch costs more than a launch.
LAUNCHER = """
import pathlib, sys
from crosskd.engine.launch import RanksFailed, RanksStopped, launch
for deed in sys.argv[2:]:
    folder = pathlib.Path(sys.argv[1], deed)
    folder.mkdir()
    try:
        launch("tests.crosskd.engine.rank_program", [deed, str(folder)], 2, grace=20)
        print("done")
    except RanksFailed as error:
        print("failed:", error)
    except RanksStopped as error:
        print("stopped:", error)
"""
# Each case in a process of its own, which begins where torch is imported already.
ABANDONING = """
import atexit, os, sys, time
import torch.distributed as dist
from crosskd.engine.launch import exit_without_cleanup
from crosskd.errors import DataError

folder, cases = sys.argv[1], [case.split("-") for case in sys.argv[2:]]
for group, end in cases:
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(f"{group}-{end}", status, flush=True)
        continue
    for stream, name in (1, "out"), (2, "err"):
        os.dup2(os.open(f"{folder}/{group}-{end}.{name}", os.O_WRONLY | os.O_CREAT), stream)
    atexit.register(time.sleep, 300)  # as NCCL's clean-up, which waits for the others
    with exit_without_cleanup():
        if group == "joined":
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        else:
            atexit.unregister(time.sleep)
        print("told", end="")
        raise {"exit": SystemExit(7), "error": DataError("an image is broken")}[end]
"""
PATIENCE = 240.0  # seconds, in which also a busy machine has started two processes with torch
LISTENING = "0A"  # in /proc/net/tcp
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def started(*deeds: str) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "3", "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", LAUNCHER, str(tmp_path), *deeds]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return started


def ranks(folder: Path) -> list[int]:
    """The process ids, once both ranks run."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        files = sorted(folder.glob("pid-*"))
        if len(files) == 2 and all(file.read_text() for file in files):
            return [int(file.read_text()) for file in files]
        time.sleep(0.05)
    raise AssertionError("the ranks did not start")


def descriptors(pid: int) -> list[str]:
    """What the process has open: sockets by the names that /proc/net knows."""
    return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_all_ranks_run_to_their_end_and_one_that_ends_badly_ends_the_others(start: Start, tmp_path: Path) -> None:
    said, errors = start("finish", "die", "fail").communicate(timeout=PATIENCE)  # the others would sleep for longer
    finished, died, failed = said.splitlines()
    assert finished == "done", errors
    for rank in (0, 1):
        assert (tmp_path / f"finish/said-{rank}").read_text() == "2 ranks, 3 threads\n"
    # The one that ended first is named first.
    assert died.startswith("failed: rank 1 was killed by signal 9 (SIGKILL)"), errors
    assert failed.startswith("failed: rank 1 exited with status 7"), errors
    assert gone([*ranks(tmp_path / "die"), *ranks(tmp_path / "fail")])


def test_a_signal_is_passed_on(start: Start, tmp_path: Path) -> None:
    launcher = start("heed")
    pids = ranks(tmp_path / "heed")
    launcher.terminate()
    said, errors = launcher.communicate(timeout=PATIENCE)
    assert said.splitlines() == ["stopped: stopped by signal 15"], errors
    assert gone(pids)


def test_nobody_from_outside_can_reach_the_ranks_nor_do_they_outlive_their_launcher(
    start: Start, tmp_path: Path
) -> None:
    """torchrun by itself listens on every interface, and unpickles what it is sent there."""
    launcher = start("sleep")
    pids = ranks(tmp_path / "sleep")
    held = {link for pid in [launcher.pid, *pids] for link in descriptors(pid)}
    listening = {
        f"socket:[{line.split()[9]}]"
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{launcher.pid}/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == LISTENING
    }
    launcher.kill()
    launcher.communicate(timeout=PATIENCE)
    assert held
    assert not held & listening
    assert gone(pids)


def test_a_group_that_an_error_leaves_behind_holds_nobody_up(tmp_path: Path) -> None:
    cases = {"joined-exit": 7, "joined-error": 1, "none-exit": 7, "none-error": 1}
    command = [sys.executable, "-c", ABANDONING, str(tmp_path), *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    for case, status in cases.items():
        errors = (tmp_path / f"{case}.err").read_text()
        assert f"{case} {status}\n" in done.stdout, errors
        assert (tmp_path / f"{case}.out").read_text() == "told"
        assert ("DataError: an image is broken" in errors) is case.endswith("error")


def test_ranks_of_one_machine_meet_on_its_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"GLOO_SOCKET_IFNAME": "eth7"})
    _prepare_environment(2, 1.0)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"  # the user's own
    assert os.environ["NCCL_SOCKET_IFNAME"].startswith("lo")


def test_who_ended_first() -> None:
    """Within a second torchrun cannot tell: a rank that was killed comes before one that failed for want of it, and
    before those that torchrun ended itself."""
    ended = RankEnd(0, -15, 7.0), RankEnd(1, 1, 8.0), RankEnd(2, -9, 8.0), RankEnd(3, 1, 9.0)
    assert [end.rank for end in sorted(ended, key=_order)] == [2, 1, 3, 0]
