from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from client.errors import StackError
from client.stack.home import Home, default_home, read_owner, token_sha256

HOLD = """
import sys
from pathlib import Path
from client.stack.home import Home

home = Home(Path(sys.argv[1]))
home.lock()
home.announce("http://127.0.0.1:1234")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_stack_on_a_home_learns_who_holds_it(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        home = Home(tmp_path)
        with pytest.raises(StackError) as caught:
            home.lock()
        assert f"process {holder.pid} at http://127.0.0.1:1234" in str(caught.value)
        assert "CROSSKD_HOME" in caught.value.remedy
        holder.kill()
    assert read_owner(tmp_path) is None  # whatever the file of a killed holder says
    home.lock()  # and the home is free
    home.unlock()


def test_an_unlocked_home_names_no_owner(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.lock()
    home.announce("http://127.0.0.1:1")
    owner = read_owner(tmp_path)
    assert owner is not None
    assert (owner.pid, owner.url) == (os.getpid(), "http://127.0.0.1:1")
    home.unlock()
    assert read_owner(tmp_path) is None


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"pid": 1}', '{"pid": "x", "url": ""}'])
def test_a_broken_lock_file_names_no_owner(tmp_path: Path, text: str) -> None:
    home = Home(tmp_path)
    home.lock()
    (tmp_path / "lock").write_text(text)
    assert read_owner(tmp_path) is None
    home.unlock()


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "home"
    path.write_text("")
    with pytest.raises(StackError, match=r"cannot be written") as caught:
        Home(path)
    assert str(path) in caught.value.message
    assert "CROSSKD_HOME" in caught.value.remedy


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=r"cannot be written"):
        Home(tmp_path / "file" / "home")


def test_a_home_that_exists_but_takes_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    Home(tmp_path)
    monkeypatch.setattr("client.stack.home.tempfile.TemporaryFile", refuse)
    with pytest.raises(StackError, match="Read-only file system"):
        Home(tmp_path)


def test_the_worker_token_is_made_once_and_is_private(tmp_path: Path) -> None:
    token = Home(tmp_path).worker_token()
    assert len(token) >= 43  # 32 bytes in base64
    assert Home(tmp_path).worker_token() == token
    assert stat.S_IMODE((tmp_path / "worker-token").stat().st_mode) == 0o600
    assert token_sha256(token) == hashlib.sha256(token.encode()).hexdigest()


@pytest.mark.parametrize("name", ["lock", "worker-token"])
def test_a_file_of_the_home_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path)
    (tmp_path / name).mkdir()  # as good as another user's file, and no root may open it either
    with pytest.raises(StackError, match="cannot be used") as caught:
        home.lock() if name == "lock" else home.worker_token()
    assert str(tmp_path / name) in caught.value.message


def test_a_new_home_is_its_owners_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "new")
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_an_open_home_is_closed_with_all_that_lies_in_it(tmp_path: Path) -> None:
    """As `make demo` in a folder of its own left the home around it, with a database that everyone could read."""
    home, elsewhere = tmp_path / "home", tmp_path / "data"
    (home / "demo").mkdir(parents=True)
    elsewhere.write_text("shared on purpose")
    (home / "crosskd.db").write_text("webhook secrets")
    (home / "link").symlink_to(elsewhere)
    for path, mode in ((home, 0o755), (home / "demo", 0o755), (home / "crosskd.db", 0o644), (elsewhere, 0o644)):
        path.chmod(mode)
    assert Home(home).tightened == 3
    assert [path for path in (home, *home.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o077] == []
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644
    assert Home(home).tightened == 0


def test_the_default_home_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSKD_HOME", raising=False)
    assert default_home() == Path(".crosskd")
    monkeypatch.setenv("CROSSKD_HOME", "/elsewhere")
    assert default_home() == Path("/elsewhere")


def test_the_lock_file_is_json(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.lock()
    home.announce("a much longer address than the next one")
    home.announce("short")
    assert json.loads((tmp_path / "lock").read_text()) == {"pid": os.getpid(), "url": "short"}
    home.unlock()
