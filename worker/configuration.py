"""Every setting of the worker's Celery, and why.

A message carries a job's id and nothing else, and the database knows the rest. So messages are acknowledged as
soon as they arrive, nothing is prefetched (a job must not wait behind a running one while another worker idles),
results are ignored, and a lost message costs nothing but a moment. The settings hold however the worker is started.
"""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer
from kombu.entity import Exchange, Queue

from wire.broker import broker
from wire.tasks import BROKER_STEPS
from worker.settings import Settings


class QuietConsumer(Consumer):  # type: ignore[misc]  # celery ships no types
    """Celery's consumer without the talk among workers: the database knows who is alive, by their leases."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, without_gossip=True, without_mingle=True, without_heartbeat=True)


def _queue(name: str) -> Queue:
    """A queue with an exchange of its own: of one that is shared, each message would go to every queue."""
    return Queue(name, Exchange(name, type="direct"), routing_key=name)  # type: ignore[no-untyped-call]


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings for a worker with these settings of ours."""
    address = broker(settings.broker_address)
    return {
        # The broker: redis or valkey. A worker outlives it and comes back to it by itself, for ever.
        "broker_url": address.url,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "socket_keepalive": True,
            "socket_timeout": 30,  # notices a broker that is cut off rather than closed
            "socket_connect_timeout": 5,
            "health_check_interval": 15,
            "retry_on_timeout": True,
            "priority_steps": BROKER_STEPS,
            **address.options,
        },
        # Where jobs come from.
        "task_queues": [_queue(name) for name in settings.queues],
        "task_default_queue": settings.queues[0],
        "task_create_missing_queues": False,
        # One job at a time, taken when there is room for it and acknowledged at once.
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        # A broken connection to the broker is no reason to stop a training.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_proc_alive_timeout": 30.0,  # the default of 4 s is short on a machine that is training
        # No results, no events, no gossip: the API hears from the training itself.
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "result_backend": None,
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        "worker_consumer": "worker.configuration:QuietConsumer",
        # Nothing but JSON is ever decoded.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "result_accept_content": ["json"],
        # No ETA: a task that must wait for its time would hold the one place there is.
        "worker_eta_task_limit": 1,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "include": ["worker.tasks"],
    }
