"""The `crosskd` command: against an API that a test has started, and `crosskd up`, which starts one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from client import cli
from tests.support.api_server import Service

UP = [sys.executable, "-m", "client.cli", "up", "--port", "0"]
# `crosskd demo` on fewer images: how many there are changes neither what it does nor the memory that it takes.
IMAGES, VAL_IMAGES = 400, 80
SMALLER = f"from client import cli, demo; demo.IMAGES, demo.VAL_IMAGES = {IMAGES}, {VAL_IMAGES}; cli.main()"
DEMO = [sys.executable, "-c", SMALLER, "demo"]


def variables(service: Service | str, home: Path | None = None) -> dict[str, str]:
    url = service if isinstance(service, str) else service.url
    return {"CROSSKD_URL": url, "CROSSKD_HOME": str(home or "/nowhere"), "COLUMNS": "80"}


def run(service: Service | str, *arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command, in this process, which a verb of the core would end; a new one would need its time for imports."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        code = status(variables(service, home), *arguments)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def status(environment: dict[str, str], *arguments: str) -> Any:
    """What the command, in this process, ends with. It may start others, which write past `sys.stdout`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["crosskd", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0
    return 0


def run_process(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as it is started at a terminal."""
    command = [sys.executable, "-m", "client.cli", *arguments]
    environment = os.environ | variables(service)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert "Traceback" not in done.stderr
    return done


@contextmanager
def up(home: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A stack that answers, in a process of its own. With `--json` its address alone stands on standard output."""
    environment = {**os.environ, "CROSSKD_HOME": str(home), "CROSSKD_DEVICES": "cpu"}
    process = subprocess.Popen(
        [*UP, *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=None if "--json" in options else subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            if "--json" in options:
                told = json.loads("".join(process.stdout.readline() for _ in range(4)))
                assert told.keys() == {"url", "home"}
                assert told["url"].startswith("http://127.0.0.1:")
                yield process
                return
            assert process.stdout.readline() == "Starting …\n"
            line = process.stdout.readline()
            assert line.startswith("CrossKD is at http://127.0.0.1:"), line
            yield process
        finally:
            process.kill()
