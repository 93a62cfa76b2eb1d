"""What is planted against a rule: a function that spoils a faultless history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from tests.faults.checker.case import Case
from tests.faults.checker.violations import Rule

Plant = Callable[[Case], None]
PLANTS: list[tuple[Rule, Plant]] = []
INSTANT = timedelta(milliseconds=1)
OTHER = "0" * 64  # a digest that nothing has


def against(rule: Rule) -> Callable[[Plant], Plant]:
    """Enter the decorated function as a plant against the rule."""

    def register(plant: Plant) -> Plant:
        PLANTS.append((rule, plant))
        return plant

    return register
