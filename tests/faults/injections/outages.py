"""What everybody leans on goes away: broker, database, API."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress

import redis

from tests.faults.processes import until
from tests.faults.proxy import Drop
from tests.faults.scene import LONGER, MOMENT, Injected, Scene
from tests.faults.stack import APIS, BROKER, POSTGRES, RELAYS, WORKERS


def restart_broker(scene: Scene) -> Injected:
    """kill -9 of the broker, which comes back with its data."""
    with scene.stack.holding(BROKER):
        job = scene.load.post()
        scene.stack.kill(BROKER)
        time.sleep(MOMENT)
        _start_broker(scene)
        return Injected("the broker, with its data", scene.started(job))


def empty_broker(scene: Scene) -> Injected:
    """kill -9 of the broker, which comes back without its data: every message that waited is lost."""
    with scene.stack.holding(BROKER), scene.workers_deaf():
        job = scene.load.post()
        scene.await_bell(job)
        scene.stack.kill(BROKER)
        for file in (scene.stack.home / "valkey").rglob("*"):
            if file.is_file():
                file.unlink()
        _start_broker(scene)
    return Injected(f"the broker, without its data and the message of job {job}", scene.started(job))


def _start_broker(scene: Scene) -> None:
    """Until it answers: whoever has its hands on the broker next shall find one."""
    scene.stack.start(BROKER)

    def answers() -> bool:
        with suppress(redis.RedisError), redis.Redis.from_url(scene.stack.broker_url) as broker:
            return bool(broker.ping())
        return False

    until(answers, 30, "the broker's answer")


def restart_postgres(scene: Scene) -> Injected:
    """Postgres is restarted and breaks all connections while a report or an upload is within its transaction."""
    with scene.stack.holding(POSTGRES), scene.victim() as run:
        postgres = scene.stack.postgres
        with ExitStack() as open_:
            connection = open_.enter_context(postgres.connection())
            open_.callback(connection.close)  # its end comes with the server's
            # Whoever writes about the job has begun its transaction and waits for the job's row: there it is when the
            # server goes.
            connection.execute("SELECT id FROM jobs WHERE id = %s FOR UPDATE", (run.job,))
            waiting = _until_blocked(scene, 5.0)
            postgres.restart()
        return Injected(f"Postgres, with {waiting} transactions of an API open", lambda: waiting > 0)


def _until_blocked(scene: Scene, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = scene.stack.postgres.rows(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query !~* '^SELECT'"
        )
        if found:
            return len(found)
        time.sleep(0.05)
    return 0


def api_away(scene: Scene) -> Injected:
    """Every API is killed and stays away for longer than a lease: that costs no attempt."""
    with scene.stack.holding(*APIS), scene.victim() as run:
        scene.stack.kill(*APIS)
        time.sleep(LONGER)
        scene.stack.start(*APIS)
        return Injected("both APIs", scene.survives(run.attempt))


def database_away(scene: Scene) -> Injected:
    """APIs and database are cut off from each other for longer than a lease: that costs no attempt either."""
    with scene.stack.holding(*APIS, *RELAYS, POSTGRES), scene.victim() as run:
        with scene.stack.proxy.troubled(Drop(), *(f"{name}:postgres" for name in APIS)):
            time.sleep(LONGER)
        return Injected("both APIs from Postgres", scene.survives(run.attempt))


def broker_away(scene: Scene) -> Injected:
    """Everybody is cut off from the broker: nothing arrives, and nobody gets an error."""
    with scene.stack.holding(BROKER):
        with scene.stack.proxy.troubled(Drop(), *(f"{name}:broker" for name in (*APIS, *RELAYS, *WORKERS))):
            job = scene.load.post()
            time.sleep(LONGER)
        return Injected(f"the broker, with job {job} posted meanwhile", scene.started(job))
