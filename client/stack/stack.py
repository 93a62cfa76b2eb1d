"""The whole service on one machine: embedded Valkey, SQLite, the API and one worker as processes on loopback.

    with Stack(Home(Path(".crosskd"))) as stack:
        Crosskd(stack.url).jobs.create(...)

All state lies in the home. A process that dies is started again; the stack's own death takes all of them with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from client.errors import StackError
from client.stack import services
from client.stack.home import Home
from client.stack.process import Child
from client.stack.readiness import ReadinessWatch
from client.stack.reaper import Reaper
from client.stack.tokens import NONE_LIVE
from wire.loopback import is_loopback

START_SECONDS = 60.0  # for each service, on a machine that is busy
MIGRATE_SECONDS = 120.0
WATCH_PAUSE = 0.2  # seconds between two looks at the processes
READY_PAUSE = 0.05


class Stack:
    """The processes of a home. `start` returns when the service answers; `stop` leaves no process behind.

    `host` other than loopback needs an API token to exist, and every caller to show one. `port` 0 takes any free one.
    `notify` gets one line for each event that a person should know of. `environment` is added to that of every process.
    A thread of its own starts and watches the processes; a reaper kills them where this process can no longer do so.
    """

    def __init__(
        self,
        home: Home,
        *,
        host: str = services.HOST,
        port: int | None = None,
        data_roots: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.home = home
        self.host = host
        self.port = services.configured_port() if port is None else port
        self.url = ""
        self.children: dict[str, Child] = {}  # in the order they are started
        self._data_roots = [home / "data", *(path.absolute() for path in data_roots)]
        self._environment = dict(environment or {})
        self._notify = notify
        if notify is not None and home.tightened:
            notify(f"{home.path} could be read by others; now it is yours alone ({home.tightened} files and folders).")
        self._readiness: ReadinessWatch | None = None
        self._reaper: Reaper | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._failure: Exception | None = None

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- called by the owner -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises: `StackError` with what is wrong, what to do, and the end of the log that tells why."""
        self.home.lock()
        try:
            self.port = services.free_port(self.port, self.host)
            self.url = services.address(self.host, self.port)
            self.home.announce(self.url)
            self._reaper = Reaper()
            self._thread = threading.Thread(target=self._run, name="stack", daemon=True)
            self._thread.start()
            self._ready.wait()
            if self._failure is not None:
                raise self._failure
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """The worker first, so that it can hand its job back; then the API; then the broker."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self._reaper is not None:
            self._reaper.close()
            self._reaper = None
        self.home.unlock()

    def request_stop(self) -> None:
        """For signal handlers: the first call stops in order, a further one without waiting for anybody."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def wait(self) -> None:
        """Until the stack has stopped, by `request_stop` or by a failure, which is raised."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(1.0)
        if self._failure is not None:
            raise self._failure

    # --- the stack's own thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._boot()
            self._ready.set()
            while not self._stopping.wait(WATCH_PAUSE):
                self._supervise()
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
            self._failure = error
        finally:
            for child in reversed(self.children.values()):
                child.stop(self._hurry.is_set)
            self._ready.set()

    def _boot(self) -> None:
        port, password = services.free_port(0), services.new_password()
        url = services.broker_url(port, password)
        exposed = not is_loopback(self.host)
        more = {**self._environment, "CROSSKD_AUTH": "tokens"} if exposed else self._environment
        environments = services.environments(self.home, self.url, url, self._data_roots, more)
        self._migrate(services.migration(self.home, environments.api))
        if exposed:
            self._require_token(services.token_check(self.home, environments.api))
        self._start(services.broker(self.home, port, password))
        self._start(services.api(self.home, environments.api, self.port, self.host))
        self._start(services.worker(self.home, environments.worker))
        if self._notify is not None:
            self._readiness = ReadinessWatch(self.url, self._notify)

    def _start(self, service: services.Service) -> None:
        """Start a service and wait until it is of use. Raises: `StackError` with the end of its log."""
        if self._stopping.is_set():
            return
        child = self.children[service.child.name] = service.child
        child.reaper = self._reaper
        child.start()
        deadline = time.monotonic() + START_SECONDS
        while not service.ready():
            if not child.running:
                raise _failed(child, "ended while it started")
            if time.monotonic() > deadline:
                raise _failed(child, f"was not ready after {START_SECONDS:g} s")
            if self._stopping.wait(READY_PAUSE):
                return

    def _migrate(self, child: Child) -> None:
        child.reaper = self._reaper
        if self._stopping.is_set() or child.run(MIGRATE_SECONDS, self._stopping.is_set):
            return
        if not self._stopping.is_set():
            raise _failed(child, "could not bring the database up to date")

    def _require_token(self, child: Child) -> None:
        """Raises: `StackError` if strangers could reach the service and nobody could show a token."""
        child.reaper = self._reaper
        if self._stopping.is_set() or child.run(MIGRATE_SECONDS, self._stopping.is_set) or self._stopping.is_set():
            return
        if child.exit_code != NONE_LIVE:
            raise _failed(child, "could not look for API tokens")
        raise StackError(
            f"Others can reach {self.host}, and there is no API token to tell them apart.",
            remedy="Make one with `crosskd token create NAME --scope admin`, or leave --host out.",
        )

    def _supervise(self) -> None:
        if self._readiness is not None:
            self._readiness.look()
        for child in self.children.values():
            if child.restart_when_due() and self._notify is not None:
                self._notify(f"{child.name} had ended (status {child.exit_code}); started it again. Log: {child.log}")


def _failed(child: Child, what: str) -> StackError:
    log = "".join(f"\n    {line}" for line in child.tail())
    return StackError(f"{child.name} {what}.", remedy=f"Its log, {child.log}, ends with:{log}")
