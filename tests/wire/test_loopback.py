"""This machine by its names and addresses, and others that look alike."""

from __future__ import annotations

import pytest

from wire.loopback import is_loopback


@pytest.mark.parametrize("here", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback(here: str) -> None:
    assert is_loopback(here)


@pytest.mark.parametrize(
    "there", ["0.0.0.0", "192.168.1.1", "", "127.0.0.1.evil.example", "localhost.evil.example", "::"]
)
def test_not_loopback(there: str) -> None:
    assert not is_loopback(there)
