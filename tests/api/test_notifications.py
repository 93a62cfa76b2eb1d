"""The notifications over a broker that breaks at the worst moments."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from api import notifications
from api.notifications import NotificationBridge, Notifier


class Broker:
    """Cannot be connected to at first, then breaks at the first message, and then takes all."""

    def __init__(self) -> None:
        self.refused = False
        self.broke = threading.Event()
        self.go_on = threading.Event()
        self.told: list[str] = []
        self.all = threading.Event()

    @contextmanager
    def connect(self, *_: object, **__: object) -> Iterator[Any]:
        if self.broke.is_set():
            self.go_on.wait(60)
        yield SimpleNamespace(default_channel=SimpleNamespace(client=self))

    def connection(self, *_: object, **__: object) -> Any:
        if threading.current_thread().name == "notifications-_tell" and not self.refused:
            self.refused = True
            raise ValueError("no such address")
        return self.connect()

    def ping(self) -> None:
        pass

    def pubsub(self, **_: object) -> Any:
        raise ConnectionError("nobody listens here")

    def pipeline(self, **_: object) -> Any:
        waiting: list[str] = []

        def execute() -> None:
            if waiting and not self.broke.is_set():
                self.broke.set()
                raise ConnectionError("it broke")
            self.told.extend(waiting)
            if "last" in self.told:
                self.all.set()

        return SimpleNamespace(
            publish=lambda _channel, message: waiting.append(message.partition(" ")[2]), execute=execute
        )


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr(notifications, "Connection", broker.connection)
    monkeypatch.setattr(notifications, "PAUSE_SECONDS", 0.01)
    return broker


def test_what_could_not_be_told_is_told_by_the_next_connection(broker: Broker) -> None:
    message = Notifier()
    with NotificationBridge(message, "redis://127.0.0.1:1/0").running():
        message.notify("first")
        assert broker.broke.wait(60)  # and the thread lives, though there was no connection at first
        for topic in ("second", "first", "last"):
            message.notify(topic)
        broker.go_on.set()
        assert broker.all.wait(60)
    assert broker.told == ["first", "second", "last"]


def test_no_more_is_kept_than_may_wait(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "MAX_PENDING", 2)
    message = Notifier()
    with NotificationBridge(message, "redis://127.0.0.1:1/0").running():
        message.notify("last")
        assert broker.broke.wait(60)
        for number in range(5):
            message.notify(f"{number}")
        broker.go_on.set()
        assert broker.all.wait(60)
    assert broker.told == ["last", "0"]
