from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
import time_machine

from wire.retry_after import retry_after

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("3600", 3600.0),
        ("Thu, 01 Jan 2026 12:01:30 GMT", 90.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", 0.0),
        ("-30", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_a_number_or_a_date_is_a_wait(value: str | None, seconds: float) -> None:
    headers = httpx.Headers({} if value is None else {"retry-after": value})
    with time_machine.travel(NOW, tick=False):
        assert retry_after(headers) == seconds
