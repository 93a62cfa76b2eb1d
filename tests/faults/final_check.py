"""The end of every test here: all jobs final, all processes there, and nothing for the checker to find."""

from __future__ import annotations

from tests.faults.checker import Violation, check
from tests.faults.checker.history import collect
from tests.faults.checker.rows import History
from tests.faults.load import Load
from tests.faults.stack import Stack

SETTLE_SECONDS = 600.0  # a bound, for a machine that does other things too: alone it takes half a minute


def judge(stack: Stack, load: Load) -> tuple[History, list[Violation]]:
    """What has happened until now, and what of it must not have."""
    load.settle(SETTLE_SECONDS)
    assert stack.dead() == []
    assert load.faults == []
    history = collect(stack.postgres.url, stack.artifacts, [stack.audit_log], load.seen)
    return history, check(history)


def told(violations: list[Violation]) -> str:
    """One a line, for a failed test's message."""
    return "\n".join(map(str, violations))
