"""Small processes instead of trainings: each measure of `worker.orphan_guard` by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.processes import alive
from tests.support.waiting import until
from worker.orphan_guard import EXIT_ORPHANED

# Tied to its parent, with a process that has got another parent, as a loader's has, and tells both their ids.
GRANDCHILD = """
import subprocess, sys
sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], stdout=subprocess.DEVNULL)
print(sleeper.pid)
"""
TRAINING = f"""
import os, subprocess, sys, time
from worker.orphan_guard import tie_to
tie_to(int(sys.argv[1]))
print(os.getpid(), subprocess.check_output([sys.executable, "-c", {GRANDCHILD!r}], text=True), flush=True)
time.sleep(300)
"""


def start(supervisor: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(supervisor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def training() -> Iterator[subprocess.Popen[str]]:
    process = start(os.getpid())
    yield process
    process.kill()
    process.communicate()


def family(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    return pids


def test_the_end_of_its_input_ends_it(training: subprocess.Popen[str]) -> None:
    pids = family(training)
    assert training.stdin is not None
    training.stdin.close()
    training.stdin = None
    until(lambda: not any(alive(pid) for pid in pids))


def test_its_own_end_takes_along_what_it_started(training: subprocess.Popen[str]) -> None:
    pids = family(training)
    training.kill()
    until(lambda: not any(alive(pid) for pid in pids))


def test_an_orphan_does_not_begin() -> None:
    process = start(supervisor=1)
    process.communicate(timeout=120)
    assert process.returncode == EXIT_ORPHANED


def test_the_end_of_its_supervisor_ends_it() -> None:
    """The input stays open here: it is this process that holds it."""
    supervisor = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {TRAINING!r}, str(os.getpid())], start_new_session=True)\n"
        "time.sleep(300)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", supervisor], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pids = family(process)
    process.kill()
    until(lambda: not any(alive(pid) for pid in pids))
    process.communicate()
