"""The relay sends the dispatch messages of the outbox, moves jobs that waited for the weights of others, and ends
attempts that are no longer heard of (the reaper).

The delivery loop, which posts to webhooks, runs in a thread beside them. All run in the API's process on one machine
(`CROSSKD_RELAY=embedded`) or beside it (`python -m api.relay`); any number of them may run at once. The database is the
truth: what the broker forgets is sent again.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from threading import Event, Thread

from sqlalchemy.exc import SQLAlchemyError

from api import process_log
from api.database import DEPENDENTS, OUTBOX, Database
from api.notifications import NotificationBridge
from api.queue import BrokerUnavailable, Producer
from api.services.jobs import outbox
from api.services.lifecycle import attempts, dependents
from api.services.webhooks.delivery_loop import DeliveryLoop
from api.settings import Settings, SettingsError, load
from wire import tracing

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # how long a row of another process waits at most
MAINTENANCE_SECONDS = 1.0  # between two looks for lapsed leases and unanswered messages
FAULT_SECONDS = 2.0  # pause after a round that failed
WEBHOOK_SECONDS = 5.0  # for what it is posting when the relay is stopped; what breaks off is tried again
BACKOFF_SECONDS = (0.5, 10.0)  # first and longest pause while the broker is away


class Relay:
    """Call `run` in a thread of its own; it ends when `stop` is called."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.producer = Producer(settings.broker_address)
        self.delivery_loop = DeliveryLoop(database, settings)
        self._wake = Event()
        self._stopped = False
        self._pause = 0.0  # the present backoff; 0 while the broker answers
        self._retry_at = 0.0
        self._maintenance_at = 0.0
        self._job_ended = Event()  # one whose weights others may wait for

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        self.delivery_loop.stop()

    def run(self) -> None:
        delivery_loop = Thread(target=self.delivery_loop.run, name="webhooks", daemon=True)
        delivery_loop.start()
        notifier = self.database.notifier
        with notifier.listening(OUTBOX, self._wake.set), notifier.listening(DEPENDENTS, self._hear_of_an_end):
            while not self._stopped:
                self._wake.clear()
                self._wake.wait(POLL_SECONDS if self._tick_logging_errors() else FAULT_SECONDS)
        self.producer.close()
        delivery_loop.join(WEBHOOK_SECONDS)

    def _hear_of_an_end(self) -> None:
        self._job_ended.set()
        self._wake.set()

    def _tick_logging_errors(self) -> bool:
        """A relay that dies would leave every later job waiting."""
        try:
            self.tick()
        except SQLAlchemyError as error:
            log.error("the database does not answer: %s", error)
        except Exception:
            log.exception("the relay failed; it goes on")
        else:
            return True
        return False

    def tick(self) -> None:
        """One round: send what is due; now and then reap, look at the jobs that wait for others, and whether the broker
        has forgotten a message."""
        maintenance = time.monotonic() >= self._maintenance_at
        if maintenance:
            self._maintenance_at = time.monotonic() + MAINTENANCE_SECONDS
            self._reap_lapsed_attempts()
        if maintenance or self._job_ended.is_set():
            self._job_ended.clear()  # first: what ends from now on is looked at in the next round
            self._settle_dependents()
        if time.monotonic() < self._retry_at:
            return
        try:
            if maintenance:
                self.redispatch_missing()
            self.publish()
        except BrokerUnavailable as error:
            first, longest = BACKOFF_SECONDS
            self._pause = min(longest, self._pause * 2) or first
            self._retry_at = time.monotonic() + self._pause
            log.warning("the broker does not answer, next try in %.1f s: %s", self._pause, error)
        else:
            self._pause = 0.0

    def _reap_lapsed_attempts(self) -> None:
        """Whatever goes wrong here, jobs that are submitted meanwhile must be dispatched."""
        try:
            with self.database.transaction() as session:
                if lost := attempts.reap(session, self.settings):
                    log.warning("%d attempts were lost", lost)
        except SQLAlchemyError as error:
            log.error("lapsed attempts could not be looked for: %s", error)
        except Exception:
            log.exception("lapsed attempts could not be ended")

    def _settle_dependents(self) -> None:
        """Queue or fail what waited for jobs that are at their end; here too, others must be dispatched whatever is."""
        try:
            if moved := dependents.settle(self.database):
                log.info("%d jobs wait for weights no longer", moved)
        except SQLAlchemyError as error:
            log.error("jobs that wait for weights could not be looked for: %s", error)
        except Exception:
            log.exception("jobs that wait for weights could not be moved")

    def publish(self) -> None:
        """Send every due message. Raises `BrokerUnavailable`, after giving back those that were not sent."""
        while messages := self._take():
            sent: list[str] = []
            try:
                for message in messages:
                    self._send(message)
                    sent.append(message.id)
            finally:
                with self.database.transaction() as session:
                    outbox.mark_published(session, sent)
                    outbox.release(session, [message.id for message in messages if message.id not in sent])

    def _send(self, message: outbox.DispatchMessage) -> None:
        """The message says of whose request it comes, so that a worker's log tells it before there is a claim."""
        with tracing.span(f"send {message.queue}", "PRODUCER", message.traceparent, job=message.job_id):
            headers = {"request_id": message.request_id, tracing.TRACEPARENT: tracing.traceparent()}
            given = {name: value for name, value in headers.items() if value}
            self.producer.send(message.queue, message.job_id, message.priority, given)
        log.info(
            "dispatched to a worker of %s",
            message.queue,
            extra={"job": message.job_id, "request_id": message.request_id},
        )

    def _take(self) -> list[outbox.DispatchMessage]:
        with self.database.reading() as session:  # an idle relay writes nothing
            if not outbox.any_due(session):
                return []
        with self.database.transaction() as session:
            return outbox.take(session)

    def redispatch_missing(self) -> None:
        """Where fewer messages wait at the broker than jobs in the database, send the oldest ones again.

        Only as many as are missing, and only those that were sent long ago: a worker that has just taken one needs a
        moment to claim its job, and a long queue is not sent twice.
        """
        age, quota = self.settings.redeliver_seconds, self.settings.max_running_per_owner
        with self.database.reading() as session:
            waiting = outbox.unclaimed(session, age, quota)
        for queue in waiting:
            if (missing := queue.messages - self.producer.depth(queue.queue)) > 0:
                with self.database.transaction() as session:
                    outbox.dispatch_again(session, queue, missing, age, quota)


def main() -> int:
    """`python -m api.relay`: until SIGTERM or SIGINT."""
    try:
        settings = load()
        process_log.configure(settings)
        tracing.start("crosskd-relay", settings.otel_endpoint)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the operator's terminal, before anything runs
        return 2
    database = Database(settings.database_address)
    relay = Relay(database, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: relay.stop())
    with NotificationBridge(database.notifier, settings.broker_address).running():
        relay.run()
    database.close()
    tracing.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
