from __future__ import annotations

import pytest

from tests.faults.load import Reference


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The training that every job repeats, run once without any service or fault."""
    return Reference(tmp_path_factory.mktemp("reference"))
