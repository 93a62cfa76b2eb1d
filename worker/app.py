"""The worker's Celery application: `celery -A worker.app worker`, or in short `python -m worker`.

Importing this module reads the environment and sets up the log. Its settings are in `worker.configuration`, its task
in `worker.tasks`.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, signals

from wire import process_log
from worker.configuration import configuration
from worker.folder import sweep
from worker.settings import SettingsError, read_settings
from worker.supervise import registration
from worker.supervise.shutdown import ShutdownNotice

try:
    settings = read_settings()
except SettingsError as exc:
    raise SystemExit(f"the worker cannot start:\n{exc}") from None
app = Celery("crosskd", set_as_current=False)
app.conf.update(configuration(settings))
shutdown_notice = ShutdownNotice()


def _clean_up(**_: Any) -> None:
    sweep(settings.work, settings.keep_failed_hours, settings.keep_undelivered_hours)


def _announce_shutdown(**_: Any) -> None:
    shutdown_notice.announce()


def _write_log(**_: Any) -> None:
    process_log.configure(settings.log_format, settings.log_level)


def _listen_for_shutdown(**_: Any) -> None:
    shutdown_notice.listen()


def _register(**_: Any) -> None:
    registration.start(settings, shutdown_notice)


_write_log()  # now: Celery has things to say before it asks for a log
signals.setup_logging.connect(_write_log)  # a receiver keeps Celery from setting up a log of its own
signals.worker_init.connect(_clean_up)
signals.worker_shutting_down.connect(_announce_shutdown)  # runs in the parent, inside its signal handler
signals.worker_process_init.connect(_listen_for_shutdown)  # runs in each pool process
signals.worker_process_init.connect(_register)  # there too: a thread of the parent would be there when it forks
