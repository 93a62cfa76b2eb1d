"""The API as a process of its own, of which a test may start several."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


class Api:
    """One API process; `program` is Python to run in place of `python -m api`."""

    def __init__(self, environment: dict[str, str], program: str = "", **changes: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        command = ["api", "--port", str(self.port)]
        start = ["-c", program, *command[1:]] if program else ["-m", *command]
        self.process = subprocess.Popen([sys.executable, *start], cwd=ROOT, env=environment | changes)
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def wait(self) -> Api:
        until(self._answers)
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None
        try:
            return self.http.get("/health").is_success
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()
