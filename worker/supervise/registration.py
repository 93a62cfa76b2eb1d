"""The worker makes itself known to the API when it starts, and again while it idles.

Without this, a worker that has had no job yet would be unknown, and who submits a job would be warned for nothing.
"""

from __future__ import annotations

import logging
import threading

from wire.workers import Registration
from worker.deliver.client import WorkerClient, connect
from worker.deliver.retry import Abandoned, ApiError, Retry
from worker.settings import Settings
from worker.supervise.machine import devices, machine, versions
from worker.supervise.shutdown import ShutdownNotice

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 6 * 3600.0  # the API forgets a worker after days


def start(settings: Settings, notice: ShutdownNotice) -> threading.Thread:
    """Begin a thread that registers the worker until `notice` comes. Nothing waits for it, and it fails alone."""
    stop = threading.Event()
    notice.subscribe(stop.set)
    thread = threading.Thread(target=_keep_registered, args=(settings, stop), name="registration", daemon=True)
    thread.start()
    return thread


def _keep_registered(settings: Settings, stop: threading.Event) -> None:
    with connect(str(settings.api_url), settings.worker_token.get_secret_value()) as http:
        client = WorkerClient(http)
        while not stop.is_set():
            try:
                client.register(_registration(settings), Retry(stop=stop, longest=60.0))
            except Abandoned:
                return
            except ApiError as exc:  # an older API does not know the call: it hears of this worker with its first claim
                logger.warning("the API did not note this worker: %s", exc)
            stop.wait(REPEAT_SECONDS)


def _registration(settings: Settings) -> Registration:
    return Registration(
        worker=settings.worker_name,
        device=settings.devices,
        versions=versions(),
        devices=devices(settings),
        machine=machine(settings),
    )
