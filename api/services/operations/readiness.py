"""Whether the service can do its work: database, its revision, broker, storage. Monitors and load balancers ask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.database import Database
from api.errors import Unavailable
from api.queue import BrokerUnavailable, ping
from api.services.files import capacity
from api.settings import Settings
from api.storage import Storage, StorageUnavailable
from wire.errors import Fault
from wire.system import Part, Ready

log = logging.getLogger(__name__)


def check(database: Database, settings: Settings, storage: Storage, parts: Sequence[Part]) -> Ready:
    """Try these parts. Raises `Unavailable` with a fault for each that does not work."""
    faults: list[Fault] = []
    if {"database", "migrations"} & set(parts):
        faults += [fault for fault in _database(database) if fault.pointer in parts or fault.pointer == "database"]
    if "broker" in parts:
        faults += _broker(settings.broker_address)
    if "storage" in parts:
        faults += [*_storage(storage), *_capacity(database, settings)]
    if faults:
        names = ", ".join(fault.pointer for fault in faults)
        log.warning("not ready: %s", "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults))
        raise Unavailable(f"not ready: {names}", errors=faults)
    return Ready(status="ready", checks=list(parts))


@cache
def _scripts() -> ScriptDirectory | None:
    found = find_spec("migrations")
    folders = list(found.submodule_search_locations or []) if found else []
    return ScriptDirectory(folders[0]) if folders else None


@cache
def head() -> str | None:
    """The newest revision that this code knows; None where the migrations are not installed."""
    scripts = _scripts()
    return scripts.get_current_head() if scripts else None


@cache
def _known() -> frozenset[str]:
    scripts = _scripts()
    return frozenset(script.revision for script in scripts.walk_revisions()) if scripts else frozenset()


def _database(database: Database) -> list[Fault]:
    try:
        with database.reading() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return [Fault(pointer="database", detail="it does not answer", remedy="Look whether it runs.")]
    remedy = "Run `python -m migrations` with this version."
    try:
        with database.reading() as session:
            revision = session.scalar(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError:
        revision = None
    # One that this code does not know is a newer version's, which has just migrated: until its processes have taken
    # over, the older ones go on, or nobody would answer meanwhile.
    if revision == head() or (revision is not None and revision not in _known()):
        return []
    return [Fault(pointer="migrations", detail=f"the database is at {revision}, not at {head()}", remedy=remedy)]


def _broker(url: str) -> list[Fault]:
    try:
        ping(url)
    except BrokerUnavailable:
        remedy = "Look whether it runs: jobs are taken, but no worker hears of them."
        return [Fault(pointer="broker", detail="it does not answer", remedy=remedy)]
    return []


def _storage(storage: Storage) -> list[Fault]:
    try:
        storage.probe()
    except StorageUnavailable as away:
        remedy = "Look whether the bucket is there, and whether the credentials may write to it."
        return [Fault(pointer="storage", detail=str(away), remedy=remedy)]
    except OSError as error:
        what = error.strerror or type(error).__name__
        return [Fault(pointer="storage", detail=f"it takes no files ({what})", remedy="Make room, or mend its folder.")]
    return []


def _capacity(database: Database, settings: Settings) -> list[Fault]:
    try:
        with database.reading() as session:
            return list(capacity.shortages(session, settings))
    except (SQLAlchemyError, OSError):
        return []  # told already, as the fault that it is
