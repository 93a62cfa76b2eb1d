"""News between the processes of the API, over the broker's publish and subscribe.

A bell and nothing else: a message names a topic, and who listens looks into the database. What the broker loses,
or does not carry because it is away, is found there a little later.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from kombu.connection import Connection

from api.database import Bell
from wire.broker import broker

log = logging.getLogger(__name__)

CHANNEL = "crosskd:bell"
TIMEOUT_SECONDS = 1.0
LISTEN_SECONDS = 0.25  # between two looks at whether to stop
PAUSE_SECONDS = 1.0  # after a fault
WAITING = 10_000  # topics that wait to be told; more are dropped, for the others look by themselves
_OPTIONS = {
    "socket_timeout": TIMEOUT_SECONDS,
    "socket_connect_timeout": TIMEOUT_SECONDS,
    "retry_on_timeout": False,
    "health_check_interval": 5,  # a broker that is cut off rather than closed is noticed
    "max_retries": 0,
    "interval_start": 0,
}


class Doorbell:
    """Two threads: one tells the other processes what was rung here, one rings here what they tell."""

    def __init__(self, bell: Bell, broker_url: str) -> None:
        self._bell = bell
        self._broker = broker(broker_url)
        self._own = os.urandom(8).hex()
        self._topics: dict[str, None] = {}  # in order, each once
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"doorbell-{work.__name__}", daemon=True)
            for work in (self._tell, self._hear)
        ]
        for thread in threads:
            thread.start()
        self._bell.carry = self._carry
        try:
            yield
        finally:
            self._bell.carry = None
            self._stopped.set()
            self._wake.set()
            for thread in threads:
                thread.join(timeout=10)

    def _carry(self, topic: str) -> None:
        with self._lock:
            if len(self._topics) < WAITING:
                self._topics[topic] = None
        self._wake.set()

    def _guarded(self, work: Any) -> None:
        """Do the work until told to stop; a broker that is away is tried again, quietly after the first time."""
        away = False
        while not self._stopped.is_set():
            try:
                with self._connection() as connection:
                    client = connection.default_channel.client
                    client.ping()
                    if away:
                        log.info("the broker carries news again")
                    away = False
                    work(client)
            except Exception as error:  # noqa: BLE001 - whatever it was, the next try may do better
                if not away:
                    log.warning("the broker carries no news, the database is asked instead: %s", error)
                away = True
            self._stopped.wait(PAUSE_SECONDS)

    def _connection(self) -> Any:
        options = _OPTIONS | self._broker.options
        return Connection(self._broker.url, transport_options=options)  # type: ignore[no-untyped-call]

    def _tell(self, client: Any) -> None:
        while not self._stopped.is_set():
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                topics, self._topics = self._topics, {}
            try:
                self._publish(client, topics)
            except Exception:
                self._put_back(topics)
                raise

    def _publish(self, client: Any, topics: Iterable[str]) -> None:
        pipeline = client.pipeline(transaction=False)
        for topic in topics:
            pipeline.publish(CHANNEL, f"{self._own} {topic}")
        pipeline.execute()  # nothing, if there is none

    def _put_back(self, topics: dict[str, None]) -> None:
        """For the next connection to tell, before what came meanwhile."""
        with self._lock:
            self._topics = dict(islice((topics | self._topics).items(), WAITING))
        self._wake.set()

    def _hear(self, client: Any) -> None:
        with client.pubsub(ignore_subscribe_messages=True) as inbox:
            inbox.subscribe(CHANNEL)
            try:
                while not self._stopped.is_set():
                    message = inbox.get_message(timeout=LISTEN_SECONDS)
                    if not self._bell.connected and inbox.subscribed:
                        self._bell.connected = True
                        self._bell.hear_all()  # of what happened before, nothing was heard
                    if message is not None:
                        sender, _, topic = _text(message["data"]).partition(" ")
                        if sender != self._own:
                            self._bell.hear(topic)
            finally:
                self._bell.connected = False


def _text(data: bytes | str) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data
