from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.load import Load, Reference
from tests.faults.processes import until
from tests.faults.stack import Stack
from tests.support.processes import alive


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The training that every job repeats, run once without any service or fault."""
    return Reference(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, reference: Reference) -> Iterator[Stack]:
    """One stack for the faults of a file: each leaves it whole."""
    with Stack(tmp_path_factory.mktemp("stack"), reference.data) as stack:
        yield stack
        server = stack.postgres.pid
    assert stack.processes() == []
    until(lambda: not alive(server), 10, "the end of Postgres")


@pytest.fixture(scope="module")
def load(stack: Stack, reference: Reference) -> Iterator[Load]:
    load = Load(stack, reference)
    yield load
    load.close()
