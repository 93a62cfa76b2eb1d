"""Work on a file from outside, in a process of its own that bounds its own time and memory and answers in JSON.

The command gets the open files as descriptors, since a path may lead elsewhere a moment later, and a request as JSON on
its standard input. It sets limits on itself (`RLIMIT_CPU`, `RLIMIT_AS`): they hold when the API is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import api

_ROOT = Path(api.__file__).parents[1]  # where the packages lie, whether they are installed or not
_OF_TIME = (-signal.SIGXCPU, -signal.SIGKILL)  # return codes of one that has used up its processor time


class TooSlow(Exception):
    """It has taken longer than it may."""


class TooMuchMemory(Exception):
    """It needs more memory than it may have."""


class Failed(Exception):
    """It came to no answer; the message is what it wrote last."""


def ask(
    command: Sequence[str],
    request: object,
    files: Sequence[BinaryIO],
    seconds: float,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """The answer to `request` about the open `files`, within `seconds`. `environment` is added to the API's own.

    Raises `TooSlow`, `TooMuchMemory` and `Failed`.
    """
    try:
        done = subprocess.run(
            command,
            pass_fds=[file.fileno() for file in files],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=seconds,
            cwd=_ROOT,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        raise TooSlow from None
    if done.returncode == 0:
        return json.loads(done.stdout)
    if b"MemoryError" in done.stderr:
        raise TooMuchMemory
    if done.returncode in _OF_TIME:
        raise TooSlow
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    raise Failed(last or f"it was ended by signal {-done.returncode}")
