"""Whether a running stack can do its work, told when that changes: a full disk stops no process."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
from pydantic import ValidationError

from client.terminal.visible import visible
from wire.errors import Problem

PAUSE = 10.0  # seconds between two looks
TIMEOUT = 2.0


class ReadinessWatch:
    """Asks `/ready` now and then and tells `notify` why it is red, and once it is green again."""

    def __init__(self, url: str, notify: Callable[[str], None], pause: float = PAUSE) -> None:
        self._url = url
        self._notify = notify
        self._pause = pause
        self._due = 0.0
        self._told: frozenset[str] = frozenset()  # the parts that do not work

    def look(self) -> None:
        """Ask, if it is time. An API that does not answer is told by whoever watches its process."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._pause
        try:
            # Plain HTTP: to make a context of TLS would take longer than the answer.
            answer = httpx.get(f"{self._url}/ready", timeout=TIMEOUT, trust_env=False, verify=False)  # noqa: S501
            faults = [] if answer.is_success else Problem.model_validate_json(answer.content).errors
        except (httpx.TransportError, ValidationError):
            return
        parts = frozenset(fault.pointer for fault in faults)
        if parts == self._told:
            return
        self._told = parts
        if not parts:
            self._notify("Ready again.")
        for fault in faults:
            self._notify(f"Not ready: {fault.pointer}: {visible(fault.detail)}. {visible(fault.remedy)}".rstrip())
