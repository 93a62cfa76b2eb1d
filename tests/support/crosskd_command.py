"""The `crosskd` command as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.api_server import Service


def run(service: Service | str, *arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    url = service if isinstance(service, str) else service.url
    environment = {**os.environ, "CROSSKD_URL": url, "CROSSKD_HOME": str(home or "/nowhere"), "COLUMNS": "80"}
    command = [sys.executable, "-m", "client.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr
    return done
