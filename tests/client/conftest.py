"""The real API behind a real socket; a test plays its worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from client.stack.services import free_port
from tests.support.api_server import Service, serve
from tests.support.coco_files import write_spec


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a data root and a place for artifacts."""
    home = tmp_path_factory.mktemp("service")
    (home / "data").mkdir()
    (home / "artifacts").mkdir()
    return home


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[Service]:
    with serve(home, free_port(0)) as url, httpx.Client(base_url=url, trust_env=False) as http:
        yield Service(url, write_spec(home / "data"), http)
