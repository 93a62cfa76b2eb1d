"""Each fault alone, while a job is trained: it shows its effect, and costs nothing that was promised."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.faults.faults import FAULTS
from tests.faults.final_check import judge, told
from tests.faults.injection_context import InjectionContext
from tests.faults.load import Load, Reference
from tests.faults.processes import until
from tests.faults.stack import Stack
from tests.support.processes import alive

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

EFFECT_SECONDS = 120.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, reference: Reference) -> Iterator[Stack]:
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


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_alone_breaks_no_promise(name: str, stack: Stack, load: Load) -> None:
    context = InjectionContext(stack, load, random.Random(name), alone=True)
    load.post()
    done = FAULTS[name](context)
    until(done.effect, EFFECT_SECONDS, f"an effect of {name} on {done.what}")
    _, violations = judge(stack, load)
    assert violations == [], told(violations)
    assert set(load.statuses().values()) == {"succeeded"}
