"""Every rule finds what is planted against it, and no other rule is set off."""

from __future__ import annotations

import copy

import pytest

from api.services.jobs import transitions
from tests.faults.checker import Rule, check
from tests.faults.checker.case import Case, faultless
from tests.faults.checker.lifecycle import LEGAL
from tests.faults.checker.planted_faults import clients, lifecycle, reports_and_files
from tests.faults.checker.planted_faults.registry import PLANTS, Plant
from tests.faults.checker.rows import History

ROOMS = (clients, lifecycle, reports_and_files)  # importing them has entered their plants


@pytest.fixture(scope="module")
def history() -> History:
    return faultless()


def test_the_faultless_history_is_found_so(history: History) -> None:
    assert check(history) == []
    assert {row.status for row in history.attempts} == {"lost", "succeeded", "released", "failed", "cancelled"}


@pytest.mark.parametrize(("rule", "plant"), [pytest.param(rule, plant, id=plant.__name__) for rule, plant in PLANTS])
def test_what_is_planted_is_found_and_nothing_else(history: History, rule: Rule, plant: Plant) -> None:
    spoiled = copy.deepcopy(history)
    plant(Case(spoiled))
    found = check(spoiled)
    assert {violation.rule for violation in found} == {rule}, "\n".join(map(str, found))
    assert all(violation.evidence for violation in found)


def test_every_rule_has_a_plant() -> None:
    assert {rule for rule, _ in PLANTS} == set(Rule)
    assert {plant.__module__ for _, plant in PLANTS} == {room.__name__ for room in ROOMS}


def test_the_state_machine_is_the_services() -> None:
    assert {**transitions.ALLOWED, None: {"waiting", "queued"}} == LEGAL
