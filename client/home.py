"""The folder that holds all state of a local stack, its lock, and the secrets made in it once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from client.errors import StackError

DEFAULT = Path(".crosskd")
FOLDERS = ("artifacts", "data", "logs", "valkey", "work")


def default_home() -> Path:
    """CROSSKD_HOME, or `.crosskd` in the current folder."""
    return Path(os.environ.get("CROSSKD_HOME") or DEFAULT)


@dataclass(frozen=True)
class Owner:
    """The process that runs a stack in a home, as written in its lock file."""

    pid: int
    url: str


class Home:
    """`path` made ready: its folders exist and can be written. Raises: `StackError`."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        file = (self / "lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        if not token:
            token = secrets.token_urlsafe(32)
            write_private(path, token + "\n")
        return token


def read_owner(path: Path) -> Owner | None:
    """Who runs a stack on a home; None when nobody does, or nobody has said."""
    try:
        data = json.loads((path / "lock").read_text(encoding="utf-8"))
        return Owner(int(data["pid"]), str(data["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
