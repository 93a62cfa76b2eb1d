"""Points that were there before their summaries are summed up by the migration, as later ones are by the service."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, delete, event, select, text

from api.database import Database, Session
from api.models import MetricPoint, MetricSummary
from api.services.history import summaries

ROOT = Path(__file__).parents[2]
MARK = {"attempt_id": "0" * 32, "sequence": 0}


@pytest.fixture
def url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database that lets points be without their attempt, which is of no interest here."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'before.db'}"
    create: Callable[[str], str] = request.getfixturevalue("postgres")
    address = create("summaries")
    engine = create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("ALTER DATABASE summaries SET session_replication_role = replica"))
    engine.dispose()
    return address


def without_foreign_keys(connection: Any, _record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA foreign_keys = OFF")


def kept(session: Session) -> list[tuple[Any, ...]]:
    table = MetricSummary.__table__
    return sorted(tuple(row) for row in session.execute(select(*table.c)))


def test_points_from_before_are_summed_up(url: str) -> None:
    config = Config(ROOT / "alembic.ini")
    config.attributes["url"] = url
    command.upgrade(config, "0007")
    command.downgrade(config, "-1")
    values = [("a", step, float(step % 97), 0) for step in range(0, 3000, 7)]
    values += [("a", 3001, None, 1), ("a", 5000, None, 3), ("b", 64, None, 2), ("b", 65, None, 1), ("c", 0, -1.0, 0)]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    names = ("key", "step", "value", "kind")
    rows = [MARK | dict(zip(names, point, strict=True)) | {"at": at} for point in values]
    database = Database(url)
    event.listen(database.engine, "connect", without_foreign_keys)
    with database.transaction() as session:
        session.insert_many(MetricPoint, rows)

    command.upgrade(config, "0007")
    with database.transaction() as session:
        migrated = kept(session)
        session.execute(delete(MetricSummary))
        summaries.add(session, MARK, rows, stored=len(rows))
        assert kept(session) == migrated
        assert len(migrated) > 50
    database.close()
