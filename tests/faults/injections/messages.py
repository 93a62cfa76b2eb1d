"""Messages that come twice, too late, or for nobody."""

from __future__ import annotations

import time

import redis

from api.queue import Producer
from tests.faults.processes import until
from tests.faults.scene import Injected, NothingToHit, Scene
from tests.faults.stack import BROKER, REDELIVER
from wire.tasks import BROKER_STEPS, queue

QUEUE = queue("cpu")


def duplicate_messages(scene: Scene) -> Injected:
    """Messages are sent once more, several at once: of running jobs, of finished ones, of some that never existed."""
    rows = scene.stack.postgres.rows("SELECT id FROM jobs ORDER BY id DESC LIMIT 10")
    jobs = [row["id"] for row in rows] * 2 + ["no-such-job", "../etc/passwd"]
    producer = Producer(scene.stack.broker_url)
    with scene.stack.holding(BROKER):
        for job in jobs:
            producer.send(QUEUE, job, scene.random.choice(BROKER_STEPS))
        producer.close()
    return Injected(f"{len(jobs)} messages of {len(rows)} jobs", lambda: _waiting(scene) == 0)


def late_messages(scene: Scene) -> Injected:
    """A message that got stuck on its way: the job is dispatched again and done, then the old message arrives."""
    with scene.stack.holding(BROKER), scene.workers_deaf():
        job = scene.load.post()
        scene.await_bell(job)
        stuck = _take_messages(scene)
    if not stuck:
        raise NothingToHit("the message was taken before it could be held back")
    if scene.alone:
        until(lambda: scene.load.statuses()[job] == "succeeded", 240, "the end of a job that was dispatched again")
    else:
        time.sleep(REDELIVER + 2 * scene.random.random())
    with scene.stack.holding(BROKER), redis.Redis.from_url(scene.stack.broker_url) as broker:
        for key, message in stuck:
            broker.rpush(key, message)
    return Injected(f"{len(stuck)} messages, among them that of job {job}", lambda: _waiting(scene) == 0)


def _lists(broker: redis.Redis) -> list[bytes]:
    """The lists of the queue at the broker: one for each priority."""
    return list(broker.scan_iter(match=f"{QUEUE}*", _type="list"))


def _take_messages(scene: Scene) -> list[tuple[bytes, bytes]]:
    """All that waits in the queue, taken off it, each with its list."""
    with redis.Redis.from_url(scene.stack.broker_url) as broker:
        return [(key, message) for key in _lists(broker) for message in broker.lpop(key, 1000) or ()]


def _waiting(scene: Scene) -> int:
    with redis.Redis.from_url(scene.stack.broker_url) as broker:
        return sum(broker.llen(key) for key in _lists(broker))
