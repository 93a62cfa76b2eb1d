"""Each fault alone but the kills, one after the other on one stack: it shows its effect, and breaks no promise."""

from __future__ import annotations

import pytest

from tests.faults.faults import FAULTS, KILLS
from tests.faults.load import Load
from tests.faults.single_fault import breaks_no_promise
from tests.faults.stack import Stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in KILLS])
def test_a_fault_alone_breaks_no_promise(name: str, stack: Stack, load: Load) -> None:
    breaks_no_promise(name, stack, load)
