"""Each kind of kill alone. In a file of its own, which a second process runs beside that of the other faults."""

from __future__ import annotations

import pytest

from tests.faults.faults import KILLS
from tests.faults.load import Load
from tests.faults.single_fault import breaks_no_promise
from tests.faults.stack import Stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.mark.parametrize("name", KILLS)
def test_a_kill_alone_breaks_no_promise(name: str, stack: Stack, load: Load) -> None:
    breaks_no_promise(name, stack, load)
