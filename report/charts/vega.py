"""Vega, Vega-Lite and Vega-Embed as one script, from the package that has them; no page loads anything from afar."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from functools import cache

LIMIT_SECONDS = 60.0
AGAIN_SECONDS = 15.0  # from a failure to the next try: of all who wait meanwhile, each would hold a thread for its own

_PRINT = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"


_lock = threading.Lock()
_failed: list[tuple[float, str]] = []  # the last failure: when, and what it said


class ScriptsMissing(RuntimeError):
    """The scripts cannot be made, for the time being or for good."""


def javascript() -> str:
    """The script (0.9 MB), which sets `window.vegaEmbed`. Raises `ScriptsMissing`."""
    with _lock:  # of several that ask first, one makes it
        if _failed and time.monotonic() - _failed[-1][0] < AGAIN_SECONDS:
            raise ScriptsMissing(_failed[-1][1])
        try:
            return _made()
        except ScriptsMissing as error:
            _failed[:] = [(time.monotonic(), str(error))]
            raise


@cache
def _made() -> str:
    """Made once, in a process of its own: its JavaScript engine takes two seconds and stays in memory where it runs."""
    command = [sys.executable, "-c", _PRINT]
    try:
        made = subprocess.run(command, capture_output=True, check=True, timeout=LIMIT_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or b""
        raise ScriptsMissing(f"{error}: {told.decode(errors='replace')[-500:]}") from error
    return made.stdout.decode().replace("</script", "<\\/script")
