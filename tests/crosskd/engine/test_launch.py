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

LAUNCHER = """
import sys
from crosskd.engine.launch import RanksFailed, RanksStopped, launch
try:
    launch("tests.crosskd.engine.rank_program", sys.argv[1:], 2, grace=20)
    print("done")
except RanksFailed as error:
    print("failed:", error)
except RanksStopped as error:
    print("stopped:", error)
"""
ABANDONING = """
import atexit, sys, time
import torch.distributed as dist
from crosskd.engine.launch import exit_without_cleanup
from crosskd.errors import DataError

atexit.register(time.sleep, 300)  # as NCCL's clean-up, which waits for the others
with exit_without_cleanup():
    if sys.argv[1] == "joined":
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    else:
        atexit.unregister(time.sleep)
    print("told", end="")
    raise {"exit": SystemExit(7), "error": DataError("an image is broken")}[sys.argv[2]]
"""
PATIENCE = 240.0  # seconds, in which also a busy machine has started two processes with torch
LISTENING = "0A"  # in /proc/net/tcp
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def started(deed: str) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "3", "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", LAUNCHER, deed, str(tmp_path)]
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


def test_all_ranks_run_to_their_end(start: Start, tmp_path: Path) -> None:
    said, errors = start("finish").communicate(timeout=PATIENCE)
    assert said.splitlines() == ["done"], errors
    for rank in (0, 1):
        assert (tmp_path / f"said-{rank}").read_text() == "2 ranks, 3 threads\n"


@pytest.mark.parametrize(
    ("deed", "how"), [("die", "rank 1 was killed by signal 9 (SIGKILL)"), ("fail", "rank 1 exited with status 7")]
)
def test_a_rank_that_ends_badly_ends_the_others_and_is_named_first(
    start: Start, tmp_path: Path, deed: str, how: str
) -> None:
    launcher = start(deed)
    pids = ranks(tmp_path)
    said, errors = launcher.communicate(timeout=PATIENCE)  # by itself the other would sleep for longer
    assert said.startswith(f"failed: {how}"), errors
    assert gone(pids)


def test_a_signal_is_passed_on(start: Start, tmp_path: Path) -> None:
    launcher = start("heed")
    pids = ranks(tmp_path)
    launcher.terminate()
    said, errors = launcher.communicate(timeout=PATIENCE)
    assert said.splitlines() == ["stopped: stopped by signal 15"], errors
    assert gone(pids)


def test_nobody_from_outside_can_reach_the_ranks(start: Start, tmp_path: Path) -> None:
    """torchrun by itself listens on every interface, and unpickles what it is sent there."""
    launcher = start("sleep")
    pids = ranks(tmp_path)
    held = {link for pid in [launcher.pid, *pids] for link in descriptors(pid)}
    listening = {
        f"socket:[{line.split()[9]}]"
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{launcher.pid}/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == LISTENING
    }
    launcher.terminate()
    launcher.communicate(timeout=PATIENCE)
    assert held
    assert not held & listening


def test_ranks_do_not_outlive_their_launcher(start: Start, tmp_path: Path) -> None:
    launcher = start("sleep")
    pids = ranks(tmp_path)
    launcher.kill()
    launcher.communicate(timeout=PATIENCE)
    assert gone(pids)


@pytest.mark.parametrize("group", ["joined", "none"])
@pytest.mark.parametrize(("end", "status"), [("exit", 7), ("error", 1)])
def test_a_group_that_an_error_leaves_behind_holds_nobody_up(group: str, end: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABANDONING, group, end], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == "told"
    assert ("DataError: an image is broken" in done.stderr) is (end == "error")


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
