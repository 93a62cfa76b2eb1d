"""Which errors mean that the infrastructure below is out: a disk that is full, a database that does not answer.

Both pass without a restart of anything here, so whoever asked is told to come back (`api/errors.py`). What is neither
is a fault of the service.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import Literal

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

Outage = Literal["full", "unavailable"]

_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# SQLite calls a disk full only for ENOSPC; a quota or a limit on the size of files is a write that failed.
_FULL_SQLITE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
_FULL_POSTGRES = "53100"
# For EFBIG Postgres has no code of its own, and its words depend on the language: this is where it extends a table.
_EXTENDS = frozenset({"mdextend", "mdzeroextend"})
_LOCKS = frozenset({"55P03", "40P01"})
_READ_ONLY = "25006"  # a server that has just become, or is still, a replica


def is_disk_full(error: OSError) -> bool:
    """Whether the disk took no more."""
    return error.errno in _FULL_DISK


def database_outage(error: SQLAlchemyError) -> Outage | None:
    """`full`: the database refused to grow, and nothing of the transaction is stored. `unavailable`: it did not
    answer, or is too busy; a commit that was under way may have come through. None: it has answered, and something
    is wrong.
    """
    if isinstance(error, PoolTimeout):
        return "unavailable"
    if not isinstance(error, DBAPIError):
        return None
    if _is_database_full(error):
        return "full"
    lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return "unavailable" if lost or getattr(error.orig, "sqlstate", None) == _READ_ONLY else None


def is_lock_conflict(error: DBAPIError) -> bool:
    """Whether a statement waited for somebody else's lock for too long, or in a circle."""
    return getattr(error.orig, "sqlstate", None) in _LOCKS


def _is_database_full(error: DBAPIError) -> bool:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", None) in _FULL_SQLITE
    if getattr(cause, "sqlstate", None) == _FULL_POSTGRES:
        return True
    return getattr(getattr(cause, "diag", None), "source_function", None) in _EXTENDS
