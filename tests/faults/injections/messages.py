"""Messages that come twice, too late, or for nobody."""

from __future__ import annotations

import time

import redis

from api.queue import Producer
from tests.faults.injection_context import Injected, InjectionContext, NothingToHit
from tests.faults.processes import until
from tests.faults.stack import BROKER, REDELIVER
from wire.tasks import BROKER_STEPS, queue

QUEUE = queue("cpu")


def duplicate_messages(context: InjectionContext) -> Injected:
    """Messages are sent once more, several at once: of running jobs, of finished ones, of some that never existed."""
    rows = context.stack.postgres.rows("SELECT id FROM jobs ORDER BY id DESC LIMIT 10")
    jobs = [row["id"] for row in rows] * 2 + ["no-such-job", "../etc/passwd"]
    producer = Producer(context.stack.broker_url)
    with context.stack.holding(BROKER):
        for job in jobs:
            producer.send(QUEUE, job, context.random.choice(BROKER_STEPS))
        producer.close()
    return Injected(f"{len(jobs)} messages of {len(rows)} jobs", lambda: _waiting(context) == 0)


def late_messages(context: InjectionContext) -> Injected:
    """A message that got stuck on its way: the job is dispatched again and done, then the old message arrives."""
    with context.stack.holding(BROKER), context.workers_deaf():
        job = context.load.post()
        context.await_message(job)
        stuck = _take_messages(context)
    if not stuck:
        raise NothingToHit("the message was taken before it could be held back")
    if context.alone:
        until(lambda: context.load.statuses()[job] == "succeeded", 240, "the end of a job that was dispatched again")
    else:
        time.sleep(REDELIVER + 2 * context.random.random())
    with context.stack.holding(BROKER), redis.Redis.from_url(context.stack.broker_url) as broker:
        for key, message in stuck:
            broker.rpush(key, message)
    return Injected(f"{len(stuck)} messages, among them that of job {job}", lambda: _waiting(context) == 0)


def _lists(broker: redis.Redis) -> list[bytes]:
    """The lists of the queue at the broker: one for each priority."""
    return list(broker.scan_iter(match=f"{QUEUE}*", _type="list"))


def _take_messages(context: InjectionContext) -> list[tuple[bytes, bytes]]:
    """All that waits in the queue, taken off it, each with its list."""
    with redis.Redis.from_url(context.stack.broker_url) as broker:
        return [(key, message) for key in _lists(broker) for message in broker.lpop(key, 1000) or ()]


def _waiting(context: InjectionContext) -> int:
    with redis.Redis.from_url(context.stack.broker_url) as broker:
        return sum(broker.llen(key) for key in _lists(broker))
