"""The database: an engine, sessions that commit once, and the notifier that tells what was committed.

A request gets one session, and the request commits it; services never do. Work that follows a commit
(waking the relay, deleting a pruned file) is handed to `Session.after_commit`. Work that is slow and only
wants to remember something on the way (a digest cache) opens its own short transaction with
`session.database.transaction()`, so that nobody waits for it: SQLite has one writer at a time.

    database.reading()        on SQLite a snapshot that waits for nobody; on Postgres each statement sees what is
                              committed then, as in a transaction there, but needs none
    database.transaction()    commits at the end, or rolls back; on SQLite BEGIN IMMEDIATE
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from select import POLLIN, poll
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic_core import to_json
from sqlalchemy import Engine, String, bindparam, cast, column, create_engine, event, func, make_url, orm, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError

from api.notifications import Notifier

log = logging.getLogger(__name__)

BUSY_SECONDS = 10  # for a lock, or for a connection of the pool; then the request is told to come back
CONNECT_SECONDS = 5
ABANDONED_SECONDS = 20  # a transaction in which nothing happens for longer: its process hangs, and holds up others
_CONNECTING: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": 20_000}  # the latter in ms
_ROWS = "all_rows"  # the parameter that holds them
OUTBOX = "outbox"  # the topic of news for rows that the relay should publish
DEPENDENTS = "dependents"  # for a job at its end whose weights others may wait for
WEBHOOKS = "webhooks"  # and for what webhooks are to be told


class Session(orm.Session):
    """SQLAlchemy's session with work to do once the commit has succeeded."""

    def __init__(self, database: Database, engine: Engine) -> None:
        super().__init__(engine, expire_on_commit=False)
        self.database = database
        self.kept_open = False  # whoever sets it commits and closes, in place of `routes/in_one_go.py`
        self._callbacks: list[Callable[[], object]] = []

    def after_commit(self, callback: Callable[[], object]) -> None:
        """Call `callback` after the commit; a rollback forgets it. Its errors are logged, never raised."""
        self._callbacks.append(callback)

    def notify(self, topic: str) -> None:
        """Notify after the commit."""
        self.after_commit(lambda: self.database.notifier.notify(topic))

    def commit(self) -> None:
        super().commit()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # the commit stands whatever becomes of what follows it
                log.exception("a callback failed after its commit")

    def rollback(self) -> None:
        super().rollback()
        self._callbacks = []

    def now(self) -> datetime:
        """The database's clock, UTC: the one clock that every replica shares."""
        if self.database.dialect == "sqlite":  # the database is this machine
            return datetime.now(UTC)
        # now() would be the start of the transaction, which may have waited for a lock since.
        clock: datetime = self.scalars(select(func.clock_timestamp())).one()
        return clock.astimezone(UTC)

    def lock(self, name: str) -> None:
        """Wait until nobody else holds the name's lock, and hold it until the transaction ends.

        On SQLite a transaction that writes holds the lock of the whole database already.
        """
        if self.database.dialect != "sqlite":
            self.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))

    def insert_if_absent(self, table: type[orm.DeclarativeBase], row: dict[str, Any]) -> bool:
        """Insert the row unless it breaks a unique constraint; whether it was inserted."""
        statement = _insert_if_absent(self.database.dialect, table, tuple(row))
        return self.connection().execute(statement, row, execution_options={"preserve_rowcount": True}).rowcount == 1

    def insert_many(
        self, table: type[orm.DeclarativeBase], rows: list[dict[str, Any]], merge: Callable[[Any], Any] | None = None
    ) -> int:
        """Insert the rows whose primary key is new; each has the same columns, and none is JSON. How many changed.

        The others are left out, or merged: from the columns of a row that is there already in the way, named by
        SQL's `excluded`, `merge` makes what to set.
        """
        statement = _insert_many(self.database.dialect, table, tuple(rows[0]), merge)
        parameters: Any = rows
        if self.database.dialect != "sqlite":
            parameters = {_ROWS: to_json(rows).decode()}
        done = self.connection().execute(statement, parameters, execution_options={"preserve_rowcount": True})
        return done.rowcount


@cache  # to build a statement takes longer than to run it
def _insert_if_absent(dialect: str, table: type[orm.DeclarativeBase], names: tuple[str, ...]) -> Any:
    insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    return insert.values({name: bindparam(name) for name in names}).on_conflict_do_nothing()


@cache
def _insert_many(
    dialect: str, table: type[orm.DeclarativeBase], names: tuple[str, ...], merge: Callable[[Any], Any] | None
) -> Any:
    insert: Any
    if dialect == "sqlite":
        insert = sqlite.insert(table)
    else:
        # One statement that reads all rows from one JSON: several times as fast as a statement per row, and twice as
        # fast as arrays, whose elements the driver would write one by one.
        columns = [table.__table__.c[name] for name in names]
        given = cast(bindparam(_ROWS, type_=String), postgresql.JSON)
        rows = func.json_to_recordset(given).table_valued(*(column(c.name, c.type) for c in columns))
        insert = postgresql.insert(table).from_select(columns, select(rows.render_derived(with_types=True)))
    if merge is None:
        return insert.on_conflict_do_nothing()
    return insert.on_conflict_do_update(index_elements=table.__table__.primary_key, set_=merge(insert.excluded))


class Database:
    """One engine for the process."""

    def __init__(self, url: str) -> None:
        self.dialect = make_url(url).get_backend_name()
        # Of a server that hangs nothing comes, not even a refusal. The address may say otherwise.
        bounds = {} if self.dialect == "sqlite" or "connect_timeout" in make_url(url).query else _CONNECTING
        # As many connections as the thread pool of the API has threads: none of them ever waits for one.
        self.engine = create_engine(
            url,
            pool_size=20,
            max_overflow=20,
            pool_timeout=BUSY_SECONDS,
            connect_args=bounds,
            hide_parameters=True,  # an error that is logged must not tell what was to be stored
        )
        self.notifier = Notifier()
        if self.dialect == "sqlite":
            self._readers = self.engine.execution_options(begin="BEGIN DEFERRED")
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self._readers = self.engine.execution_options(isolation_level="AUTOCOMMIT")
            event.listen(self.engine, "connect", _prepare_postgres)
            event.listen(self.engine, "checkout", _refuse_closed)

    def session(self) -> Session:
        """For whoever commits and closes it: `transaction` does."""
        return Session(self, self.engine)

    def reader(self) -> Session:
        """For whoever closes it: `reading` does."""
        return Session(self, self._readers)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with self.session() as session:
            yield session
            session.commit()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self.reader() as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: _begin_sqlite does
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _prepare_postgres(connection: Any, _record: object) -> None:
    connection.autocommit = True  # in a transaction, a rollback would take the settings back
    connection.execute(f"SET lock_timeout = '{BUSY_SECONDS}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{ABANDONED_SECONDS}s'")
    connection.autocommit = False


def _refuse_closed(connection: Any, _record: object, _proxy: object) -> None:
    """Make the pool open another in place of one that the server has closed meanwhile.

    Nothing comes unasked but that news, so it can be seen; a ping would cost each request a trip to the server.
    """
    if not connection.closed:
        news = poll()  # not select(), which knows no descriptor above 1023
        news.register(connection, POLLIN)
        if not news.poll(0):
            return
    raise DisconnectionError("the server has closed the connection")


def _begin_sqlite(connection: Any) -> None:
    # A deferred transaction that reads and then writes can fail at once with "database is locked", whatever the
    # busy timeout; a writer therefore takes the lock at its beginning.
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN IMMEDIATE"))


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


DatabaseDep = Annotated[Database, Depends(_database)]


# Coroutines, for which FastAPI takes no thread: a session takes a connection with its first statement.
async def _writing(database: DatabaseDep) -> Session:
    return database.session()


async def _reading(database: DatabaseDep) -> Session:
    return database.reader()


# Of an endpoint, they are called `session`: `routes/in_one_go.py` commits and closes them before the answer is sent, so
# an answer never tells of what is not stored.
SessionDep = Annotated[Session, Depends(_writing)]
ReadDep = Annotated[Session, Depends(_reading)]
