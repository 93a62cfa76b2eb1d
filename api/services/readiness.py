"""Whether the service can do all of its work: database, its revision, broker, storage. Load balancers ask."""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.util import find_spec

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.database import Database
from api.errors import Unavailable
from api.queue import BrokerAway, ping
from api.schemas.errors import Fault
from api.schemas.system import Ready
from api.storage import Storage

log = logging.getLogger(__name__)

PROBE = b"probe" * 1000  # bytes; a disk that is full takes an empty file


def check(database: Database, broker_url: str, storage: Storage) -> Ready:
    """Try everything. Raises `Unavailable` with a fault for each part that does not work."""
    faults = [*_database(database), *_broker(broker_url), *_storage(storage)]
    if faults:
        names = ", ".join(fault.pointer for fault in faults)
        log.warning("not ready: %s", "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults))
        raise Unavailable(f"not ready: {names}", errors=faults)
    return Ready(status="ready", checks=["database", "migrations", "broker", "storage"])


@cache
def head() -> str | None:
    """The newest revision that this code knows; None where the migrations are not installed."""
    found = find_spec("migrations")
    folders = list(found.submodule_search_locations or []) if found else []
    return ScriptDirectory(folders[0]).get_current_head() if folders else None


def _database(database: Database) -> list[Fault]:
    try:
        with database.reading() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return [Fault(pointer="database", detail="it does not answer", remedy="Look whether it runs.")]
    remedy = "Run `python -m migrations` with this version, or the version that fits the database."
    try:
        with database.reading() as session:
            revision = session.scalar(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError:
        revision = None
    if revision == head():
        return []
    return [Fault(pointer="migrations", detail=f"the database is at {revision}, not at {head()}", remedy=remedy)]


def _broker(url: str) -> list[Fault]:
    try:
        ping(url)
    except BrokerAway:
        remedy = "Look whether it runs: jobs are taken, but no worker hears of them."
        return [Fault(pointer="broker", detail="it does not answer", remedy=remedy)]
    return []


def _storage(storage: Storage) -> list[Fault]:
    try:
        with storage.stage(os.urandom(32).hex()) as staged:
            try:
                staged.write(PROBE)
            finally:
                staged.discard()
    except OSError as error:
        what = error.strerror or type(error).__name__
        return [Fault(pointer="storage", detail=f"it takes no files ({what})", remedy="Make room, or mend its folder.")]
    return []
