"""What everybody leans on goes away: broker, database, API."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress

import redis

from tests.faults.injection_context import LONGER, MOMENT, Injected, InjectionContext
from tests.faults.processes import until
from tests.faults.proxy import Drop
from tests.faults.stack import APIS, BROKER, POSTGRES, RELAYS, WORKERS


def restart_broker(context: InjectionContext) -> Injected:
    """kill -9 of the broker, which comes back with its data."""
    with context.stack.holding(BROKER):
        job = context.load.post()
        context.stack.kill(BROKER)
        time.sleep(MOMENT)
        _start_broker(context)
        return Injected("the broker, with its data", context.started(job))


def empty_broker(context: InjectionContext) -> Injected:
    """kill -9 of the broker, which comes back without its data: every message that waited is lost."""
    with context.stack.holding(BROKER), context.workers_deaf():
        job = context.load.post()
        context.await_message(job)
        context.stack.kill(BROKER)
        for file in (context.stack.home / "valkey").rglob("*"):
            if file.is_file():
                file.unlink()
        _start_broker(context)
    return Injected(f"the broker, without its data and the message of job {job}", context.started(job))


def _start_broker(context: InjectionContext) -> None:
    """Until it answers: whoever has its hands on the broker next shall find one."""
    context.stack.start(BROKER)

    def answers() -> bool:
        with suppress(redis.RedisError), redis.Redis.from_url(context.stack.broker_url) as broker:
            return bool(broker.ping())
        return False

    until(answers, 30, "the broker's answer")


def restart_postgres(context: InjectionContext) -> Injected:
    """Postgres is restarted and breaks all connections while a report or an upload is within its transaction."""
    with context.stack.holding(POSTGRES), context.victim() as run:
        postgres = context.stack.postgres
        with ExitStack() as open_:
            connection = open_.enter_context(postgres.connection())
            open_.callback(connection.close)  # its end comes with the server's
            # Whoever writes about the job has begun its transaction and waits for the job's row: there it is when the
            # server goes.
            connection.execute("SELECT id FROM jobs WHERE id = %s FOR UPDATE", (run.job,))
            waiting = _until_blocked(context, 5.0)
            postgres.restart()
        return Injected(f"Postgres, with {waiting} transactions of an API open", lambda: waiting > 0)


def _until_blocked(context: InjectionContext, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = context.stack.postgres.rows(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query !~* '^SELECT'"
        )
        if found:
            return len(found)
        time.sleep(0.05)
    return 0


def api_away(context: InjectionContext) -> Injected:
    """Every API is killed and stays away for longer than a lease: that costs no attempt."""
    with context.stack.holding(*APIS), context.victim() as run:
        context.stack.kill(*APIS)
        time.sleep(LONGER)
        context.stack.start(*APIS)
        return Injected("both APIs", context.survives(run.attempt))


def database_away(context: InjectionContext) -> Injected:
    """APIs and database are cut off from each other for longer than a lease: that costs no attempt either."""
    with context.stack.holding(*APIS, *RELAYS, POSTGRES), context.victim() as run:
        with context.stack.proxy.troubled(Drop(), *(f"{name}:postgres" for name in APIS)):
            time.sleep(LONGER)
        return Injected("both APIs from Postgres", context.survives(run.attempt))


def broker_away(context: InjectionContext) -> Injected:
    """Everybody is cut off from the broker: nothing arrives, and nobody gets an error."""
    with context.stack.holding(BROKER):
        with context.stack.proxy.troubled(Drop(), *(f"{name}:broker" for name in (*APIS, *RELAYS, *WORKERS))):
            job = context.load.post()
            time.sleep(LONGER)
        return Injected(f"the broker, with job {job} posted meanwhile", context.started(job))
