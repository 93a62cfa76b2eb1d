"""The courier posts what the webhooks' outbox holds, several at once: a slow receiver delays nobody but itself."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event

from sqlalchemy.exc import SQLAlchemyError

from api.database import WEBHOOKS, Database
from api.services import webhooks
from api.services.pinned import Undeliverable
from api.settings import Settings

log = logging.getLogger(__name__)

AT_ONCE = 8
POLL_SECONDS = 1.0  # how long a row of another process waits at most
FAULT_SECONDS = 2.0


class Courier:
    """Call `run` in a thread of its own; it ends when `stop` is called. Any number of them may run at once."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self._wake = Event()
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def run(self) -> None:
        with (
            self.database.bell.listening(WEBHOOKS, self._wake.set),
            ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as threads,
        ):
            while not self._stopped:
                self._wake.clear()
                try:
                    busy = self.tick(threads)
                except SQLAlchemyError as error:
                    log.error("the database does not answer: %s", error)
                    self._wake.wait(FAULT_SECONDS)
                except Exception:
                    log.exception("the courier failed; it goes on")
                    self._wake.wait(FAULT_SECONDS)
                else:
                    if not busy:
                        self._wake.wait(POLL_SECONDS)

    def tick(self, threads: ThreadPoolExecutor) -> bool:
        """Try what is due, `AT_ONCE` at most; whether there was something."""
        with self.database.reading() as session:  # an idle courier writes nothing
            if not webhooks.any_due(session):
                return False
        with self.database.transaction() as session:
            parcels = webhooks.take(session, AT_ONCE)
        list(threads.map(self._deliver, parcels))
        return bool(parcels)

    def _deliver(self, parcel: webhooks.Parcel) -> None:
        trouble: Undeliverable | None = None
        try:
            webhooks.send(parcel, self.settings, datetime.now(UTC))
        except Undeliverable as error:
            trouble = error
            # By its id: an address may hold a secret of its receiver's.
            log.warning("webhook %s did not take %s: %s", parcel.webhook, parcel.id, error)
        with self.database.transaction() as session:
            webhooks.settle(session, parcel, trouble)
