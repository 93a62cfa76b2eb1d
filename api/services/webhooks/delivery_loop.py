"""The courier posts what the webhooks' outbox holds, several at once, and takes more as soon as one of them is over.

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

AT_ONCE = 16
POLL_SECONDS = 1.0  # how long a row of another process waits at most
FAULT_SECONDS = 2.0


class Courier:
    """Call `run` in a thread of its own; it ends when `stop` is called. Any number of them may run at once."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self._going: dict[Future[None], store.Parcel] = {}
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
                    self.fill(threads)
                except SQLAlchemyError as error:
                    log.error("the database does not answer: %s", error)
                    self._wake.wait(FAULT_SECONDS)
                except Exception:
                    log.exception("the courier failed; it goes on")
                    self._wake.wait(FAULT_SECONDS)
                else:
                    self._wake.wait(POLL_SECONDS)

    def fill(self, threads: ThreadPoolExecutor) -> list[Future[None]]:
        """Begin to try what is due, as far as there is room; what has begun. The end of each wakes `run`."""
        self._going = {future: parcel for future, parcel in self._going.items() if not future.done()}
        room = AT_ONCE - len(self._going)
        if not (room and self._any_due()):
            return []
        with self.database.transaction() as session:
            parcels = store.take(session, room, self._going.values())
        begun = {threads.submit(self._deliver, parcel): parcel for parcel in parcels}
        self._going |= begun
        for future in begun:
            future.add_done_callback(lambda _: self._wake.set())
        return list(begun)

    def _any_due(self) -> bool:
        with self.database.reading() as session:  # an idle courier writes nothing
            return store.any_due(session)

    def _deliver(self, parcel: store.Parcel) -> None:
        """What goes wrong here only delays the row: it is due again when nobody has settled it."""
        try:
            trouble = store.attempt(parcel, self.settings, datetime.now(UTC))
            if trouble is not None:  # by its id: an address may hold a secret of its receiver's
                log.warning("webhook %s did not take %s: %s", parcel.webhook, parcel.id, trouble)
            with self.database.transaction() as session:
                store.settle(session, parcel, trouble)
        except SQLAlchemyError as error:
            log.error("what became of %s could not be noted: %s", parcel.id, error)
        except Exception:
            log.exception("the courier failed at %s; it goes on", parcel.id)
