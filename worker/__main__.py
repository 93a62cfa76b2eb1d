"""`python -m worker`: check the settings, then become the Celery worker."""

from __future__ import annotations

import os
import sys

from worker.settings import SettingsError, read_settings


def main() -> None:
    """Replace this process by `celery worker`; further arguments go to it. Exits 2 if a setting is wrong."""
    try:
        settings = read_settings()
    except SettingsError as exc:
        sys.exit(f"the worker cannot start:\n{exc}")
    command = [sys.executable, "-m", "celery", "--app", "worker.app"]
    if settings.log_format == "json":
        command.append("--quiet")  # a banner is no JSON
    arguments = ["worker", "--hostname", f"{settings.worker_name}-{os.getpid()}@%h", *sys.argv[1:]]
    os.execv(sys.executable, command + arguments)  # noqa: S606 - the same process: signals reach Celery itself


if __name__ == "__main__":
    main()
