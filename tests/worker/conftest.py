from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.api_double import TOKEN, Double
from worker.deliver.client import AttemptClient, connect
from worker.folder import WorkFolder


@pytest.fixture
def double() -> Iterator[Double]:
    api = Double()
    yield api
    api.close()


@pytest.fixture
def http(double: Double) -> Iterator[httpx.Client]:
    with connect(double.url, TOKEN) as client:
        yield client


@pytest.fixture
def attempt(http: httpx.Client) -> AttemptClient:
    return AttemptClient(http, "attempt-1", 7)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[WorkFolder]:
    created = WorkFolder.create(tmp_path / "work", "attempt-1")
    yield created
    created.release(keep=True)


@pytest.fixture
def stale() -> threading.Event:
    """Set by the reporter when it hears that the attempt is another's."""
    return threading.Event()


@pytest.fixture
def until() -> Callable[[Callable[[], object], float], None]:
    """Wait for a condition; fail when it does not come."""

    def wait(condition: Callable[[], object], seconds: float) -> None:
        pause = threading.Event()
        for _ in range(int(seconds / 0.02)):
            if condition():
                return
            pause.wait(0.02)
        raise AssertionError(f"it did not happen within {seconds} s")

    return wait
