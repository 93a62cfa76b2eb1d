"""Vega, Vega-Lite and Vega-Embed as one script, from the package that has them; no page loads anything from afar."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import cache

LIMIT_SECONDS = 120.0

_PRINT = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"


_lock = threading.Lock()


class ScriptsMissing(RuntimeError):
    """The scripts cannot be made, for the time being or for good."""


def javascript() -> str:
    """The script (0.9 MB), which sets `window.vegaEmbed`. Raises `ScriptsMissing`."""
    with _lock:  # of several that ask first, one makes it
        return _made()


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
