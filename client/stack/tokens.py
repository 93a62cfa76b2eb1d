"""API tokens of a home's database. The service's own command makes them: the client touches no SQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from client.errors import StackError
from client.stack import services
from client.stack.home import Home

MODULE = "api.tokens"
NONE_LIVE = 3  # the status with which `check` says so
PATIENCE = 120.0  # seconds


def manage(home: Home, arguments: Sequence[str]) -> int:
    """Run `python -m api.tokens` on the home's database, migrated first; its exit status.

    It speaks to this process's own terminal, so a new secret passes through no log and no pipe of ours.
    """
    environment = services.environments(home, "", "", [home / "data"], {}).api
    migration = services.migration(home, environment)
    if not migration.run(PATIENCE, lambda: False):
        raise StackError(
            "The database could not be brought up to date.", remedy=f"Read the end of its log, {migration.log}."
        )
    command = [sys.executable, "-m", MODULE, *arguments]
    return subprocess.run(command, env=environment, cwd=home.path, check=False).returncode
