"""The service as a site with several machines would run it: real processes, and a link of the proxy between any two.

    clients ──▶ api-1, api-2 ──▶ Postgres          each arrow is a link named "from:to", such as "worker-1:api",
    worker-1 … worker-3 ──▶ api, broker            "api-2:postgres" or "relay-1:broker"; who calls the API reaches
    relay-1, relay-2 ──▶ Postgres, broker          either replica

All leases are short. Everything that a process prints goes to `logs/`.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType

from client.stack import services
from client.stack.home import Home, token_sha256
from client.stack.process import Child
from client.stack.reaper import Reaper
from tests.faults.postgres import DATABASE, Postgres
from tests.faults.processes import leads, limit_files, marked, send, until
from tests.faults.proxy import HOST, Proxy
from tests.support.processes import children, command_line

LEASE = 5.0  # seconds, with ten heartbeats: a busy machine shall cost none
REDELIVER = 2.0  # seconds after which an unanswered message is dispatched again
MAX_RESUMES = 100  # a schedule of faults loses a job far more often than a year of service
APIS, RELAYS, WORKERS = ("api-1", "api-2"), ("relay-1", "relay-2"), ("worker-1", "worker-2", "worker-3")
BROKER, POSTGRES = "broker", "postgres"
START_SECONDS = 90.0
MARK = "FAULTS_STACK"  # in the environment of every process of a stack
CLOCK = Path(__file__).parent / "clock"


class Busy(Exception):
    """Another fault has its hands on it."""


class Stack:
    """All processes of the service. `with Stack(folder, data) as stack:` leaves none behind."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.home = folder
        self.data = data
        self.artifacts = folder / "artifacts"
        self.audit_log = folder / "audit_log"
        self.proxy = Proxy()
        self.children: dict[str, Child] = {}
        self._reaper = Reaper()
        self._held: set[str] = set()
        self._lock = Lock()

    def __enter__(self) -> Stack:
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _boot(self) -> None:
        home = Home(self.home)
        self.postgres = Postgres()
        self._reaper.add(self.postgres.pid)
        port, password = services.free_port(0), services.new_password()
        self.broker_url = services.broker_url(port, password)
        broker = services.broker(home, port, password)
        self.children[BROKER] = broker.child
        self.ports = {name: services.free_port(0) for name in APIS}
        servers = [(HOST, port) for port in self.ports.values()]
        for name in (*APIS, *RELAYS):
            self.proxy.link(f"{name}:postgres", [self.postgres.socket])
        for name in (*APIS, *RELAYS, *WORKERS):
            self.proxy.link(f"{name}:broker", [(HOST, port)])
        for name in ("client", *WORKERS):
            self.proxy.link(f"{name}:api", servers)
        self._common = {name: value for name, value in os.environ.items() if not name.startswith("CROSSKD_")} | {
            MARK: str(self.home),
            "CROSSKD_DATA_ROOTS": str(self.data),
            "NO_PROXY": HOST,
            "no_proxy": HOST,
            "OMP_NUM_THREADS": "1",
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }
        token, digest = home.worker_token(), token_sha256(home.worker_token())
        for name in APIS:
            command = ["api", "--host", HOST, "--port", str(self.ports[name]), "--drain-seconds", "2"]
            self._add(name, command, self._serving(name, password, digest))
        for name in RELAYS:
            self._add(name, ["api.relay"], self._serving(name, password, digest))
        for name in WORKERS:
            self._add(name, ["worker"], self._working(name, password, token))
        command = [sys.executable, "-m", "migrations"]
        migration = Child("migrate", command, self._log("migrate"), self._migrating(digest), self.home)
        assert migration.run(START_SECONDS, lambda: False), migration.tail()
        self.start(*self.children)
        self.wait_ready()

    def _add(self, name: str, module: list[str], environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", *module]
        self.children[name] = Child(name, command, self._log(name), environment, self.home)

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _migrating(self, digest: str) -> dict[str, str]:
        more = {"CROSSKD_DATABASE_URL": self.postgres.url, "CROSSKD_WORKER_TOKEN_SHA256": digest}
        return self._common | more | {"CROSSKD_HOME": str(self.home)}

    def _serving(self, name: str, password: str, digest: str) -> dict[str, str]:
        """The environment of an API or a relay."""
        port = self.proxy.links[f"{name}:postgres"].port
        return self._common | {
            "CROSSKD_HOME": str(self.home),
            "CROSSKD_DATABASE_URL": f"postgresql+psycopg://postgres@{HOST}:{port}/{DATABASE}",
            "CROSSKD_BROKER_URL": services.broker_url(self.proxy.links[f"{name}:broker"].port, password),
            "CROSSKD_WORKER_TOKEN_SHA256": digest,
            "CROSSKD_RELAY": "external",
            "CROSSKD_LEASE_SECONDS": str(LEASE),
            "CROSSKD_REDELIVER_SECONDS": str(REDELIVER),
            "CROSSKD_MAX_RESUMES": str(MAX_RESUMES),
        }

    def _working(self, name: str, password: str, token: str) -> dict[str, str]:
        return self._common | {
            "CROSSKD_HOME": str(self.home / name),
            "CROSSKD_API_URL": f"http://{HOST}:{self.proxy.links[f'{name}:api'].port}",
            "CROSSKD_BROKER_URL": services.broker_url(self.proxy.links[f"{name}:broker"].port, password),
            "CROSSKD_WORKER_TOKEN": token,
            "CROSSKD_WORKER_NAME": name,
            "CROSSKD_DEVICES": "cpu",
            "CROSSKD_HEARTBEAT_SECONDS": "0.5",
            "CROSSKD_GRACE_SECONDS": "5",
            "CROSSKD_AUDIT_LOG": str(self.audit_log),
        }

    # --- processes ---------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where clients find the API, whichever replica answers."""
        return f"http://{HOST}:{self.proxy.links['client:api'].port}"

    def start(self, *names: str) -> None:
        for name in names:
            child = self.children[name]
            child.reaper = self._reaper
            child.start()

    def restart(self, name: str, **changes: str) -> None:
        """Let it end in order, as at a deployment, and start it with other settings; empty ones are taken away."""
        child = self.children[name]
        child.grace = 15.0
        child.stop()
        environment = dict(child.environment) | changes
        child.environment = {key: value for key, value in environment.items() if value}
        self.start(name)

    def kill(self, *names: str) -> None:
        """SIGKILL, each with all that it has started in its session."""
        for name in names:
            self.children[name].kill()

    def kill_alone(self, name: str) -> int:
        """SIGKILL to the one process; what it has started must see to itself. Its process id."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not self.children[name].running, 10)  # which also takes note of its end
        return pid

    def pid(self, name: str) -> int:
        pid = self.children[name].pid
        assert pid is not None, f"{name} does not run"
        return pid

    def dead(self) -> list[str]:
        """Processes that have ended although nobody restarts them: each with the end of its log."""
        return [f"{name}: {child.tail()[-5:]}" for name, child in self.children.items() if not child.running]

    def wait_ready(self) -> None:
        """Until every process is of use, as its log tells."""
        for names, word in ((APIS, "startup complete"), (WORKERS, " ready.")):
            for name in names:
                until(lambda name=name, word=word: self._said(name, word), START_SECONDS, f"{name}:{word}")  # type: ignore[misc]

    def _said(self, name: str, word: str) -> bool:
        return any(word in line for line in self.children[name].tail(200))

    def supervisor(self, worker: str) -> int:
        """The pool process of a worker, which holds its attempts."""
        pools = children(self.pid(worker))
        if len(pools) != 1:
            raise Busy(f"{worker} is just replacing its pool process")
        return pools[0]

    def trainings(self, attempt: str = "") -> list[int]:
        """Training processes: of one attempt, or all of the stack's. Helpers that they have forked are left out."""
        return [
            pid
            for pid in self.processes()
            if "worker.training.run" in (command := command_line(pid)) and attempt in command[-1] and leads(pid)
        ]

    def processes(self) -> list[int]:
        """All living processes of this stack but the database's."""
        return list(marked(f"{MARK}={self.home}".encode()))

    def freeze(self, pids: Iterable[int]) -> Callable[[], None]:
        """SIGSTOP; what it returns undoes it."""
        stopped = list(pids)
        send(stopped, signal.SIGSTOP)
        return lambda: send(stopped, signal.SIGCONT)

    @contextmanager
    def small_files(self, pids: Iterable[int], limit: int) -> Iterator[None]:
        """Meanwhile the kernel refuses these processes every byte of a file beyond `limit`, as a full disk does."""
        limited = list(pids)
        limit_files(limited, limit)
        try:
            yield
        finally:
            limit_files(limited, resource.RLIM_INFINITY)

    # --- who may touch what ------------------------------------------------------------------------------------------

    @contextmanager
    def holding(self, *names: str) -> Iterator[None]:
        """Keep other faults away from these parts meanwhile. Raises `Busy` at once if one is taken."""
        with self._lock:
            if taken := self._held & set(names):
                raise Busy(", ".join(sorted(taken)))
            self._held |= set(names)
        try:
            yield
        finally:
            with self._lock:
                self._held -= set(names)

    def free(self, name: str) -> bool:
        with self._lock:
            return name not in self._held

    def close(self) -> None:
        """End everything, at once."""
        for child in reversed(self.children.values()):
            child.kill()
        send(self.processes(), signal.SIGKILL)  # what outlived a process that was killed alone
        if hasattr(self, "postgres"):
            self.postgres.stop()
        self._reaper.close()
        self.proxy.close()

    def tails(self) -> str:
        """The ends of all logs, for a look when a test fails."""
        return "\n".join(
            f"--- {name}\n" + "\n".join(child.tail(25)) for name, child in self.children.items() if child.tail(1)
        )
