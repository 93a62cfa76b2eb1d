"""The sender of dispatch messages: Celery messages by task name. A broker that is away costs a second, never more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import ChannelError, OperationalError

from wire.broker import broker
from wire.tasks import BROKER_STEPS, RUN_JOB

TIMEOUT_SECONDS = 1.0


class BrokerUnavailable(Exception):
    """The broker cannot be reached."""


def ping(url: str) -> None:
    """Whether the broker answers, asked over a connection of its own. Raises `BrokerUnavailable`."""
    address = broker(url)
    options: dict[str, Any] = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    options |= {"retry_on_timeout": False, "max_retries": 0, **address.options}
    connection: Any = Connection(address.url, transport_options=options)  # type: ignore[no-untyped-call]
    try:
        connection.default_channel.client.ping()
    except Exception as error:  # kombu's, the client library's or the system's: all the same
        raise BrokerUnavailable(str(error)) from error
    finally:
        connection.release()


class Producer:
    """Sends dispatch messages over one connection, which is made anew after a fault. For one thread."""

    def __init__(self, url: str) -> None:
        address = broker(url)
        self._app = Celery("crosskd", broker=address.url, set_as_current=False)
        self._app.conf.update(
            broker_connection_timeout=TIMEOUT_SECONDS,
            broker_transport_options={
                "socket_timeout": TIMEOUT_SECONDS,
                "socket_connect_timeout": TIMEOUT_SECONDS,
                "retry_on_timeout": False,
                "max_retries": 0,  # the relay decides when to try again
                "interval_start": 0,
                "priority_steps": BROKER_STEPS,
                **address.options,
            },
            task_ignore_result=True,
            worker_enable_remote_control=False,
        )
        self._connection: Connection | None = None

    def send(self, queue: str, job_id: str, priority: int, headers: Mapping[str, str] | None = None) -> None:
        """Send the message of a job; `priority` is the broker's, 0 comes first. Raises `BrokerUnavailable`."""
        try:
            self._app.send_task(
                RUN_JOB,
                args=(job_id,),
                queue=queue,
                priority=priority,
                headers=headers,
                connection=self._connect(),
                retry=False,
                ignore_result=True,
            )
        except (OperationalError, OSError, ChannelError) as error:
            self.close()
            raise BrokerUnavailable(str(error)) from error

    def depth(self, queue: str) -> int:
        """Messages that wait in a queue. Raises `BrokerUnavailable`."""
        connection = self._connect()
        try:
            with connection.channel() as channel:  # type: ignore[no-untyped-call]  # kombu types only some of it
                return int(channel.queue_declare(queue, passive=True).message_count)
        except ChannelError:  # no such queue
            return 0
        except (*connection.connection_errors, *connection.channel_errors, OSError) as error:
            self.close()
            raise BrokerUnavailable(str(error)) from error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()  # type: ignore[no-untyped-call]

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._app.connection_for_write()
        return self._connection
