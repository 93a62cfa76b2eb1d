from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.stack import process
from client.stack.process import Child
from client.stack.reaper import Reaper
from tests.support.processes import alive
from tests.support.waiting import until

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
PARENT = f"""
import subprocess, sys
inner = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], stdout=subprocess.DEVNULL)  # or it could speak first
print(inner.pid, flush=True)
{SLEEPER}
"""
STARTER = """
import os, sys
from pathlib import Path
from client.stack.reaper import Reaper
from client.stack.process import Child
from client.stack.reaper import Reaper

reaper = Reaper()
print(reaper._process.pid, flush=True)
if sys.argv[3] == "killed":
    reaper._process.kill()
    reaper._process.wait()
log = Path(sys.argv[2])
child = Child("child", [sys.executable, "-c", sys.argv[1]], log, os.environ, log.parent, reaper=reaper)
child.start()
print(child.pid, flush=True)
sys.stdin.read()
"""


def make(tmp_path: Path, source: str, *, grace: float = 10.0) -> Child:
    command = [sys.executable, "-c", source]
    return Child("child", command, tmp_path / "child.log", dict(os.environ), tmp_path, grace)


def started(child: Child) -> Child:
    child.start()
    until(lambda: "up" in child.tail())
    return child


@pytest.mark.parametrize("reaper", ["well", "killed"])
def test_a_childs_whole_session_dies_with_its_starter(tmp_path: Path, reaper: str) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", STARTER, PARENT, str(log), reaper]
    starter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with starter:
        assert starter.stdout is not None
        first_guard, pid = int(starter.stdout.readline()), int(starter.stdout.readline())
        until(lambda: log.exists() and "up" in log.read_text())
        inner = int(log.read_text().splitlines()[0])
        assert alive(pid)
        assert alive(inner)
        starter.kill()
    until(lambda: not any(map(alive, (pid, inner, first_guard))))


def test_a_closed_guard_lets_go(tmp_path: Path) -> None:
    reaper = Reaper()
    child = make(tmp_path, SLEEPER)
    child.reaper = reaper
    started(child)
    assert child.pid is not None
    reaper.close()
    assert alive(child.pid)
    child.reaper = None
    child.stop()


def test_stop_ends_the_whole_session(tmp_path: Path) -> None:
    child = started(make(tmp_path, PARENT))
    leader, inner = child.pid, int(child.tail()[0])
    assert leader is not None
    assert alive(inner)
    assert os.getsid(leader) == leader
    child.stop()
    until(lambda: not alive(inner))
    assert not alive(leader)
    assert child.exit_code == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = started(make(tmp_path, STUBBORN, grace=0.3))
    child.stop()
    assert child.exit_code == -signal.SIGKILL


def test_hurry_cuts_the_grace_short(tmp_path: Path) -> None:
    child = started(make(tmp_path, STUBBORN, grace=600.0))
    begin = time.monotonic()
    child.stop(lambda: True)
    assert time.monotonic() - begin < 300  # half the grace
    assert child.exit_code == -signal.SIGKILL


def test_a_child_that_died_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FIRST_PAUSE", 0.01)
    child = started(make(tmp_path, SLEEPER))
    first = child.pid
    assert first is not None
    assert not child.restart_when_due()
    os.kill(first, signal.SIGKILL)
    until(child.restart_when_due)
    assert child.pid not in (None, first)
    assert child.exit_code == -signal.SIGKILL
    child.stop()


def test_what_a_dead_child_left_behind_is_killed_before_the_restart(tmp_path: Path) -> None:
    child = started(make(tmp_path, PARENT))
    inner = int(child.tail()[0])
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: not child.running)
    assert alive(inner)
    child.restart_when_due()
    until(lambda: not alive(inner))
    child.stop()


def test_the_pause_grows_while_a_child_keeps_dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FIRST_PAUSE", 0.1)
    child = make(tmp_path, "raise SystemExit(3)")
    child.start()
    asked: list[float] = []  # when it was last asked before each start, and when that had returned
    started: list[float] = []

    def restarted() -> bool:
        before = time.monotonic()
        if not child.restart_when_due():
            return False
        asked.append(before)
        started.append(time.monotonic())
        return True

    while len(started) < 4:
        until(restarted)
    pauses = [later - earlier for earlier, later in zip(asked, started[1:], strict=False)]
    assert pauses[0] >= 0.2
    assert pauses[1] >= 0.4
    assert pauses[2] >= 0.8
    assert child.exit_code == 3
    child.stop()


def test_run_tells_how_a_program_ended(tmp_path: Path) -> None:
    assert make(tmp_path, "pass").run(60.0, lambda: False)
    assert not make(tmp_path, "raise SystemExit(1)").run(60.0, lambda: False)
    stuck = make(tmp_path, SLEEPER)
    assert not stuck.run(0.2, lambda: False)
    assert stuck.pid is None
    assert not make(tmp_path, SLEEPER).run(60.0, lambda: True)


def test_the_tail_begins_at_the_last_start(tmp_path: Path) -> None:
    (tmp_path / "child.log").write_text("an earlier life\n")
    child = make(tmp_path, "print('this life')")
    assert child.run(60.0, lambda: False)
    assert child.tail() == ["this life"]
    assert (tmp_path / "child.log").read_text() == "an earlier life\nthis life\n"


def test_a_long_log_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "OLD_LOG", 10)
    (tmp_path / "child.log").write_text("long enough by now\n")
    assert make(tmp_path, "print('new')").run(60.0, lambda: False)
    assert (tmp_path / "child.log").read_text() == "new\n"
    assert (tmp_path / "child.old.log").read_text() == "long enough by now\n"
