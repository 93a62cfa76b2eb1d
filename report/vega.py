"""Vega, Vega-Lite and Vega-Embed as one script, from the package that has them; no page loads anything from afar."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

_PRINT = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"


@cache
def javascript() -> str:
    """The script (0.9 MB), which sets `window.vegaEmbed`.

    Made once, in a process of its own: its JavaScript engine takes two seconds and stays in memory where it runs.
    """
    made = subprocess.run([sys.executable, "-c", _PRINT], capture_output=True, check=True, timeout=120)
    return made.stdout.decode().replace("</script", "<\\/script")
