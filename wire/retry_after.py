"""How long an answer asks to be left alone: its `Retry-After` (RFC 9110, section 10.2.3)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

HEADER = "Retry-After"


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds from now that the sender of `headers` asks to wait, by a number or a date; 0 if it says neither.

    There is no upper bound: how much of it is waited is the caller's own patience.
    """
    value = headers.get(HEADER, "")
    try:
        seconds = float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 0.0
    return max(seconds, 0.0)
