"""What waits at the broker: each queue has a list for each priority."""

from __future__ import annotations

import redis
from kombu.transport.redis import Channel

from wire.tasks import BROKER_STEPS, NORMAL_PRIORITY, broker_priority


def key(queue: str, priority: int = NORMAL_PRIORITY) -> str:
    """The name of the list that a queue's jobs of this priority wait in."""
    step = broker_priority(priority)
    return f"{queue}{Channel.sep}{step}" if step else queue


def queued_messages(broker: redis.Redis, queue: str = "cpu") -> int:
    """All that wait in the queue."""
    return sum(int(broker.llen(key(queue, step + 1))) for step in BROKER_STEPS)  # type: ignore[arg-type]
