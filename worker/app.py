"""The worker's Celery application: `celery -A worker.app worker`, or in short `python -m worker`.

Importing this module reads the environment. Its settings are in `worker.configuration`, its task in `worker.tasks`.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, signals

from worker.configuration import configuration
from worker.folder import sweep
from worker.settings import SettingsError, read_settings
from worker.shutdown import ShutdownNotice

try:
    settings = read_settings()
except SettingsError as exc:
    raise SystemExit(f"the worker cannot start:\n{exc}") from None
logging.getLogger("httpx").setLevel(logging.WARNING)  # or there would be a line for every heartbeat
app = Celery("crosskd", set_as_current=False)
app.conf.update(configuration(settings))
shutdown_notice = ShutdownNotice()


def _clean_up(**_: Any) -> None:
    sweep(settings.work, settings.keep_failed_hours)


def _announce_shutdown(**_: Any) -> None:
    shutdown_notice.announce()


def _listen_for_shutdown(**_: Any) -> None:
    shutdown_notice.listen()


signals.worker_init.connect(_clean_up)
signals.worker_shutting_down.connect(_announce_shutdown)  # runs in the parent, inside its signal handler
signals.worker_process_init.connect(_listen_for_shutdown)  # runs in each pool process
