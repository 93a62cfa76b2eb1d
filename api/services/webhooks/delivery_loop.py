"""Posts what is due for webhooks, several at once, and takes more as soon as one of them is over.

A receiver that is slow holds some of the places, never all: `webhooks.take` bounds what is on its way to one webhook
and for one owner. Others wait only where the receivers of several owners are slow at once; theirs is the next place.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event

from sqlalchemy.exc import SQLAlchemyError

from api.database import WEBHOOKS, Database
from api.services.webhooks import store
from api.settings import Settings

log = logging.getLogger(__name__)

MAX_CONCURRENT = 16
POLL_SECONDS = 1.0  # how long a row of another process waits at most
FAULT_SECONDS = 2.0


class DeliveryLoop:
    """Call `run` in a thread of its own; it ends when `stop` is called. Any number of them may run at once."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self._in_progress: dict[Future[None], store.PendingDelivery] = {}
        self._wake = Event()
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def run(self) -> None:
        with (
            self.database.notifier.listening(WEBHOOKS, self._wake.set),
            ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="webhook") as threads,
        ):
            while not self._stopped:
                self._wake.clear()
                try:
                    self.start_due(threads)
                except SQLAlchemyError as error:
                    log.error("the database does not answer: %s", error)
                    self._wake.wait(FAULT_SECONDS)
                except Exception:
                    log.exception("the delivery loop failed; it goes on")
                    self._wake.wait(FAULT_SECONDS)
                else:
                    self._wake.wait(POLL_SECONDS)

    def start_due(self, threads: ThreadPoolExecutor) -> list[Future[None]]:
        """Begin to try what is due, as far as there is room; what has begun. The end of each wakes `run`."""
        self._in_progress = {future: delivery for future, delivery in self._in_progress.items() if not future.done()}
        free_slots = MAX_CONCURRENT - len(self._in_progress)
        if not (free_slots and self._any_due()):
            return []
        with self.database.transaction() as session:
            deliveries = store.take(session, free_slots, self._in_progress.values())
        started = {threads.submit(self._deliver, delivery): delivery for delivery in deliveries}
        self._in_progress |= started
        for future in started:
            future.add_done_callback(lambda _: self._wake.set())
        return list(started)

    def _any_due(self) -> bool:
        with self.database.reading() as session:  # an idle delivery loop writes nothing
            return store.any_due(session)

    def _deliver(self, delivery: store.PendingDelivery) -> None:
        """What goes wrong here only delays the row: it is due again when no outcome is recorded."""
        try:
            trouble = store.attempt(delivery, self.settings, datetime.now(UTC))
            if trouble is not None:  # by its id: an address may hold a secret of its receiver's
                log.warning("webhook %s did not take %s: %s", delivery.webhook, delivery.id, trouble)
            with self.database.transaction() as session:
                store.record_outcome(session, delivery, trouble)
        except SQLAlchemyError as error:
            log.error("the outcome of %s could not be recorded: %s", delivery.id, error)
        except Exception:
            log.exception("the delivery loop failed at %s; it goes on", delivery.id)
