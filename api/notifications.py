"""Notifications between the processes of the API, over the broker's publish and subscribe.

A message names a topic and nothing else; who listens looks into the database. What the broker loses,
or does not carry because it is away, is found there a little later.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from kombu.connection import Connection

from wire.broker import broker

log = logging.getLogger(__name__)

CHANNEL = "crosskd:notifications"
TIMEOUT_SECONDS = 1.0
LISTEN_SECONDS = 0.25  # between two looks at whether to stop
PAUSE_SECONDS = 1.0  # after a fault
MAX_PENDING = 10_000  # topics that wait to be told; more are dropped, for the others look by themselves
_OPTIONS = {
    "socket_timeout": TIMEOUT_SECONDS,
    "socket_connect_timeout": TIMEOUT_SECONDS,
    "retry_on_timeout": False,
    "health_check_interval": 5,  # a broker that is cut off rather than closed is noticed
    "max_retries": 0,
    "interval_start": 0,
}


class Notifier:
    """Who listens to a topic is called when something happened.

    Within this process that is sure. `NotificationBridge` carries notifications between processes, as far as the
    broker does; nobody relies on it, all look at the database now and then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[str, list[Callable[[], object]]] = {}
        self.forward: Callable[[str], object] | None = None  # tells the other processes; must not wait
        self.connected = False  # whether news of other processes come in

    @contextmanager
    def listening(self, topic: str, callback: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            self._listeners.setdefault(topic, []).append(callback)
        try:
            yield
        finally:
            with self._lock:
                self._listeners[topic].remove(callback)
                if not self._listeners[topic]:
                    del self._listeners[topic]

    def notify(self, topic: str) -> None:
        """Something has happened here."""
        self.receive(topic)
        if self.forward is not None:
            self.forward(topic)

    def receive(self, topic: str) -> None:
        """Something has happened, here or in another process."""
        with self._lock:
            listeners = list(self._listeners.get(topic, ()))
        for callback in listeners:
            callback()

    def receive_all(self) -> None:
        """Anything may have happened."""
        with self._lock:
            topics = list(self._listeners)
        for topic in topics:
            self.receive(topic)


class NotificationBridge:
    """Two threads: one publishes to the other processes what happened here, one receives what they publish."""

    def __init__(self, notifier: Notifier, broker_url: str) -> None:
        self._notifier = notifier
        self._broker = broker(broker_url)
        self._sender = os.urandom(8).hex()
        self._topics: dict[str, None] = {}  # in order, each once
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [
            threading.Thread(
                target=self._reconnecting, args=(work,), name=f"notifications-{work.__name__}", daemon=True
            )
            for work in (self._publish_pending, self._receive)
        ]
        for thread in threads:
            thread.start()
        self._notifier.forward = self._forward
        try:
            yield
        finally:
            self._notifier.forward = None
            self._stopped.set()
            self._wake.set()
            for thread in threads:
                thread.join(timeout=10)

    def _forward(self, topic: str) -> None:
        with self._lock:
            if len(self._topics) < MAX_PENDING:
                self._topics[topic] = None
        self._wake.set()

    def _reconnecting(self, work: Any) -> None:
        """Do the work until told to stop; a broker that is away is tried again, quietly after the first time."""
        disconnected = False
        while not self._stopped.is_set():
            try:
                with self._connection() as connection:
                    client = connection.default_channel.client
                    client.ping()
                    if disconnected:
                        log.info("notifications from other processes arrive again")
                    disconnected = False
                    work(client)
            except Exception as error:  # noqa: BLE001 - whatever it was, the next try may do better
                if not disconnected:
                    log.warning("no notifications over the broker, the database is polled instead: %s", error)
                disconnected = True
            self._stopped.wait(PAUSE_SECONDS)

    def _connection(self) -> Any:
        options = _OPTIONS | self._broker.options
        return Connection(self._broker.url, transport_options=options)  # type: ignore[no-untyped-call]

    def _publish_pending(self, client: Any) -> None:
        while not self._stopped.is_set():
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                topics, self._topics = self._topics, {}
            try:
                self._publish(client, topics)
            except Exception:
                self._requeue(topics)
                raise

    def _publish(self, client: Any, topics: Iterable[str]) -> None:
        pipeline = client.pipeline(transaction=False)
        for topic in topics:
            pipeline.publish(CHANNEL, f"{self._sender} {topic}")
        pipeline.execute()  # nothing, if there is none

    def _requeue(self, topics: dict[str, None]) -> None:
        """For the next connection to tell, before what came meanwhile."""
        with self._lock:
            self._topics = dict(islice((topics | self._topics).items(), MAX_PENDING))
        self._wake.set()

    def _receive(self, client: Any) -> None:
        with client.pubsub(ignore_subscribe_messages=True) as inbox:
            inbox.subscribe(CHANNEL)
            try:
                while not self._stopped.is_set():
                    message = inbox.get_message(timeout=LISTEN_SECONDS)
                    if not self._notifier.connected and inbox.subscribed:
                        self._notifier.connected = True
                        self._notifier.receive_all()  # of what happened before, nothing was heard
                    if message is not None:
                        sender, _, topic = _text(message["data"]).partition(" ")
                        if sender != self._sender:
                            self._notifier.receive(topic)
            finally:
                self._notifier.connected = False


def _text(data: bytes | str) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data
