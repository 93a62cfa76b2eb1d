"""One fault alone, while a job is trained."""

from __future__ import annotations

import random

from tests.faults.faults import FAULTS
from tests.faults.final_check import judge, told
from tests.faults.injection_context import InjectionContext
from tests.faults.load import Load
from tests.faults.processes import until
from tests.faults.stack import Stack

EFFECT_SECONDS = 120.0


def breaks_no_promise(name: str, stack: Stack, load: Load) -> None:
    """Inject it: it must show its effect, and cost nothing that was promised."""
    context = InjectionContext(stack, load, random.Random(name), alone=True)
    load.post()
    done = FAULTS[name](context)
    until(done.effect, EFFECT_SECONDS, f"an effect of {name} on {done.what}")
    _, violations = judge(stack, load)
    assert violations == [], told(violations)
    assert set(load.statuses().values()) == {"succeeded"}
