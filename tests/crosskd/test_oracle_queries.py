"""The reference's numbers of distillation between DETRs, and that none of them can be overlooked."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import __main__ as oracle
from tests.oracle.queries import DESCRIPTION, compare
from tests.support.oracle_runs import assert_met, runs

FOLDER = Path(__file__).parents[1] / "data/oracle/queries"
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in oracle.read_cases(FOLDER) if isinstance(case, dict)}
PAIRS = {name for name, case in CASES.items() if case["kind"] == "end-to-end"}
# One pair by the student's queries, whose gradients tell most; the teacher's are quick in the replayed layers.
QUICK = CASES.keys() - PAIRS | {"detr_kd/e2e-student"}


@pytest.mark.parametrize(("name", "single"), runs(CASES, QUICK, CASES))
def test_the_reference_is_met(name: str, single: bool) -> None:
    assert_met(CASES[name], single=single)


def test_the_vectors_are_all_there() -> None:
    losses = {"loss-student", "loss-teacher-c80", "loss-giou", "loss-giou-v2-beta1"}
    replays = {"replay-student-1", "replay-student-2", "replay-teacher-2"}
    pairs = {"e2e-student", "e2e-student-variant-detached", "e2e-teacher"}
    assert set(CASES) == {f"detr_kd/{name}" for name in losses | replays | pairs}


@pytest.mark.parametrize("field", sorted(CASES["detr_kd/e2e-student"].keys() - DESCRIPTION))
def test_no_number_can_change_or_be_missing_unseen(field: str) -> None:
    case = CASES["detr_kd/e2e-student"]
    assert compare(case, {name: value for name, value in case.items() if name != field}, single=False).uncompared
    changed = copy.deepcopy(case)
    place: Any = changed
    key: Any = field
    while isinstance(place[key], dict | list):
        place = place[key]
        key = next(iter(place)) if isinstance(place, dict) else 0
    place[key] = place[key] * 1.001 + 1
    assert not compare(case, changed, single=False).passed


def test_what_a_case_says_beyond_what_is_known_is_not_built() -> None:
    case = CASES["detr_kd/loss-giou"]
    for changed in ({"query_mode": "both"}, {"kd_cfg": case["kd_cfg"] | {"loss_dfl_kd": {"type": "L1Loss"}}}):
        with pytest.raises(oracle.UnknownSettingError):
            oracle.run_case(case | changed, single=False)
