"""Holding an attempt: two threads beside the training. Heartbeats renew its lease, a held request brings commands."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Literal

from wire.reports import WorkerCommand
from wire.workers import DeviceState, HeartbeatReport
from worker.deliver.client import HEARTBEAT_SECONDS, AttemptClient
from worker.deliver.retry import Retry, StaleAttempt

logger = logging.getLogger(__name__)

HOLD_SECONDS = (15, 20)  # how long the API may hold the request for commands: not in step with other workers
EMPTY_SECONDS = 1.0  # between two such requests if the API does not hold them
BEATS_PER_LEASE = 4  # at least: two heartbeats may get lost, and the third still has its time

Reason = Literal["stale", "cancel", "shutdown", "pause", "stop"]


class Control:
    """Why an attempt should end before its time, as far as anybody requested it. Any thread may do so.

    `halt` is set by every reason but `stop`, which lets the training come to an end of its own.
    """

    def __init__(self) -> None:
        self.halt = threading.Event()
        self._reasons: set[Reason] = set()

    def request(self, reason: Reason) -> None:
        self._reasons.add(reason)
        if reason != "stop":
            self.halt.set()

    @property
    def stale(self) -> bool:
        """The attempt is another's: nothing it makes is wanted."""
        return "stale" in self._reasons

    @property
    def cancel(self) -> bool:
        """A user cancelled the job."""
        return "cancel" in self._reasons

    @property
    def shutdown(self) -> bool:
        """This worker is being shut down; the job goes on elsewhere."""
        return "shutdown" in self._reasons

    @property
    def pause(self) -> bool:
        """The job goes on later: its device is wanted, its checkpoint must not get lost."""
        return "pause" in self._reasons

    @property
    def stop(self) -> bool:
        """The training shall end as a success, with what it has reached."""
        return "stop" in self._reasons

    @property
    def hurry(self) -> bool:
        """Whether there is no time but the grace."""
        return self.cancel or self.shutdown


class Lease:
    """Keeps an attempt alive and turns what the API says into orders. An API that is away changes nothing here."""

    def __init__(
        self,
        api: AttemptClient,
        control: Control,
        *,
        lease_seconds: float,
        heartbeat_seconds: float,
        devices: Callable[[], list[DeviceState]] = list,
    ) -> None:
        self._api = api
        self._control = control
        self._devices = devices
        self._interval = min(heartbeat_seconds, lease_seconds / BEATS_PER_LEASE)
        self._timeout = min(HEARTBEAT_SECONDS, self._interval)  # one that hangs must not delay the next
        self._done = threading.Event()

    def start(self) -> None:
        for name, target in (("heartbeats", self._send_heartbeats), ("commands", self._poll_commands)):
            inherited = copy_context()  # whose job it is: what these threads log says so too
            run = partial(inherited.run, self._run_until_stale, target)
            threading.Thread(target=run, name=name, daemon=True).start()

    def stop(self) -> None:
        """Let the lease go. The threads end by themselves; one may still sit in its request for a while."""
        self._done.set()

    def _run_until_stale(self, target: Callable[[], None]) -> None:
        try:
            target()
        except StaleAttempt as exc:
            if not self._done.is_set():
                logger.warning("the attempt is another's now: %s", exc)
                self._control.request("stale")

    def _send_heartbeats(self) -> None:
        away_since, due = None, time.monotonic() + self._interval
        while not self._done.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + self._interval
            try:
                heartbeat = self._api.heartbeat(self._timeout, HeartbeatReport(devices=self._devices()))
            except StaleAttempt:
                raise
            except Exception as exc:  # noqa: BLE001 - whatever it was, the next heartbeat must be tried
                if away_since is None:
                    away_since = time.monotonic()
                    logger.warning("no heartbeat, the training goes on: %s", exc)
                continue
            if away_since is not None:
                logger.warning("heartbeats again after %.0f s", time.monotonic() - away_since)
                away_since = None
            if heartbeat.command is not None:
                self._control.request(heartbeat.command)

    def _poll_commands(self) -> None:
        failures, retry = 0, Retry()
        known: WorkerCommand | None = None
        while not self._done.is_set() and known != "cancel":  # which nothing follows
            asked = time.monotonic()
            try:
                command = self._api.command(random.randint(*HOLD_SECONDS), known).command  # noqa: S311
            except StaleAttempt:
                raise
            except Exception:  # noqa: BLE001 - as above; the heartbeats have told of it
                self._done.wait(retry.delay(failures))
                failures += 1
                continue
            failures = 0
            if command is not None:
                self._control.request(command)
            if command != known:
                known = command
            elif time.monotonic() - asked < EMPTY_SECONDS:
                self._done.wait(EMPTY_SECONDS)
