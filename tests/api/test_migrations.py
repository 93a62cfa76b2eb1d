"""The migrations make exactly the tables of the models, and take them away again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from api.models import Base

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    create: Callable[[str], str] = request.getfixturevalue("postgres")
    return create("migrations")


@pytest.fixture
def config(url: str) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.attributes["url"] = url
    return config


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names - {"alembic_version"}


def differences(url: str) -> list[object]:
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        found: list[object] = compare_metadata(context, Base.metadata)
    engine.dispose()
    return found


def test_head_is_what_the_models_say(config: Config, url: str) -> None:
    command.upgrade(config, "head")
    assert tables(url) == set(Base.metadata.tables)
    assert differences(url) == []


def test_every_migration_goes_up_and_down(config: Config, url: str) -> None:
    revisions = list(ScriptDirectory.from_config(config).walk_revisions())[::-1]
    assert revisions
    for revision in revisions:
        before = tables(url)
        command.upgrade(config, revision.revision)
        command.downgrade(config, "-1")
        assert tables(url) == before
        command.upgrade(config, revision.revision)
    command.downgrade(config, "base")
    assert tables(url) == set()


def test_a_missing_column_would_be_noticed(config: Config, url: str) -> None:
    command.upgrade(config, "head")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs DROP COLUMN best_ap")
    engine.dispose()
    assert len(differences(url)) == 1
