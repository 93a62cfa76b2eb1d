"""The folder that holds all state of a local stack, its lock, and the secrets made in it once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from client.errors import StackError
from client.settings import Settings

FOLDERS = ("artifacts", "data", "logs", "valkey", "work")


def default_home() -> Path:
    """CROSSKD_HOME, or `.crosskd` in the current folder."""
    return Settings().home


@dataclass(frozen=True)
class Owner:
    """The process that runs a stack in a home, as written in its lock file."""

    pid: int
    url: str


class Home:
    """`path` made ready: its folders exist, can be written, and are this user's alone. Raises: `StackError`.

    `tightened` counts what others could get at below it until now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.tightened = _tighten(self.path)
            for name in FOLDERS:
                (self.path / name).mkdir(mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass  # a folder that exists may still be read-only or full
        except OSError as error:
            raise StackError(
                f"The home {self.path} cannot be written ({error.strerror or error}).",
                remedy="Name a folder of your own: CROSSKD_HOME=~/crosskd.",
            ) from error
        self._lock: IO[str] | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def lock(self) -> None:
        """Hold the home until `unlock` or the end of this process. Raises: `StackError` naming who holds it."""
        try:
            descriptor = private(str(self / "lock"), os.O_RDWR | os.O_CREAT | os.O_APPEND)
            file = os.fdopen(descriptor, "a+", encoding="utf-8")
        except OSError as error:
            raise _unusable(self / "lock", error) from error
        try:
            _seize(file)
        except OSError as error:
            file.close()
            owner = read_owner(self.path)
            who = f"process {owner.pid} at {owner.url}" if owner else "another process"
            raise StackError(
                f"A stack runs on the home {self.path} already: {who}.",
                remedy="Use that one, stop it, or name another home: CROSSKD_HOME=….",
            ) from error
        self._lock = file

    def announce(self, url: str) -> None:
        """Write into the lock who holds it, for `read_owner`."""
        assert self._lock is not None
        self._lock.truncate(0)
        self._lock.write(json.dumps({"pid": os.getpid(), "url": url}))
        self._lock.flush()

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def worker_token(self) -> str:
        """The worker's secret: made once, readable by its owner alone."""
        path = self / "worker-token"
        try:
            token = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            token = ""
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable(path, error) from error
        if not token:
            token = secrets.token_urlsafe(32)
            write_private(path, token + "\n")
        return token


def private(path: str, flags: int) -> int:
    """An opener for `open`: a file that is made is its owner's alone."""
    return os.open(path, flags, 0o600)


def _tighten(home: Path) -> int:
    """Take from others what they may do with a home and what lies in it; how many files and folders that were.

    A home that is closed already is not walked: nobody gets past it, whatever the modes inside are.
    """
    if not _open_to_others(home):
        return 0
    home.chmod(home.stat().st_mode & 0o700)  # first: from here on nobody gets in
    found = 1
    for folder, folders, files in os.walk(home):
        for path in (Path(folder, name) for name in (*folders, *files)):
            with suppress(FileNotFoundError):  # gone meanwhile
                if not path.is_symlink() and _open_to_others(path):
                    path.chmod(path.stat().st_mode & 0o700)
                    found += 1
    return found


def _open_to_others(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o077)


def read_owner(path: Path) -> Owner | None:
    """Who runs a stack on a home; None when nobody does, or nobody has said."""
    try:
        with (path / "lock").open(encoding="utf-8") as file:
            if not _held(file):
                return None  # what it says is of a stack that was killed
            data = json.loads(file.read())
        return Owner(int(data["pid"]), str(data["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _seize(file: IO[str]) -> None:
    """Twice, because `read_owner` holds the lock for a moment, too."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        time.sleep(0.1)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _held(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back as the file is closed
    except OSError:
        return True
    return False


def _unusable(path: Path, error: Exception) -> StackError:
    return StackError(
        f"{path} cannot be used ({getattr(error, 'strerror', None) or error}).",
        remedy="Give it to this user, remove it, or name another home: CROSSKD_HOME=….",
    )


def token_sha256(token: str) -> str:
    """What the service knows of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
