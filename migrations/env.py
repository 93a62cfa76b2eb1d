"""Alembic's entry: migrates the database that CROSSKD_DATABASE_URL names, in one transaction."""

from __future__ import annotations

import os
import sys
from logging.config import fileConfig
from pathlib import Path

from alembic import context
from sqlalchemy import URL, Engine, create_engine, event, make_url

from api.addresses import database_address
from api.models import Base


def _url() -> URL:
    """A test hands its own address over in the configuration; otherwise the API's setting counts, and its default."""
    given: str | None = context.config.attributes.get("url")
    if given:
        return make_url(given)
    if url := os.environ.get("CROSSKD_DATABASE_URL"):
        try:
            return make_url(database_address(url))
        except ValueError as fault:
            sys.exit(f"CROSSKD_DATABASE_PASSWORD: {fault}")
    home = Path(os.environ.get("CROSSKD_HOME") or ".crosskd").absolute()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return URL.create("sqlite", database=str(home / "crosskd.db"))


def _engine() -> Engine:
    """Unlike the API's engine it leaves SQLite's foreign keys off: a table that is copied must not cascade."""
    url = _url()
    if url.get_backend_name() == "sqlite" and url.database:
        # SQLite would make a file that everyone may read, and webhook secrets are in it.
        Path(url.database).touch(mode=0o600)
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        # The driver would commit at each statement; so a migration that fails half way leaves nothing behind.
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def migrate() -> None:
    engine = _engine()
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            transactional_ddl=True,
            render_as_batch=True,  # SQLite alters a table by copying it
            compare_type=True,
            compare_server_default=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


if context.config.config_file_name is not None and not context.config.attributes.get("url"):
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
migrate()
