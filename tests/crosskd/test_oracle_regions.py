"""The reference's numbers of two-stage distillation, and that none of them can be overlooked."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import __main__ as oracle
from tests.oracle.regions import DESCRIPTION, compare
from tests.support.oracle_runs import assert_met, runs

FOLDER = Path(__file__).parents[1] / "data/oracle/regions"
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in oracle.read_cases(FOLDER) if isinstance(case, dict)}
PAIR = "roi_kd/e2e-c3"


@pytest.mark.parametrize(("name", "single"), runs(CASES, set(CASES), CASES))
def test_the_reference_is_met(name: str, single: bool) -> None:
    assert_met(CASES[name], single=single)


def test_the_vectors_are_all_there() -> None:
    kinds = ("c3", "c80", "r0", "background", "agnostic", "c1", "mask-c3", "e2e-c3")
    assert set(CASES) == {f"roi_kd/{name}" for name in kinds}


@pytest.mark.parametrize("field", sorted(CASES[PAIR].keys() - DESCRIPTION))
def test_no_number_can_change_or_be_missing_unseen(field: str) -> None:
    case = CASES[PAIR]
    assert compare(case, case, single=False).passed
    assert compare(case, {name: value for name, value in case.items() if name != field}, single=False).uncompared
    changed = copy.deepcopy(case)
    place: Any = changed
    key: Any = field
    while isinstance(place[key], dict | list):
        place = place[key]
        key = next(iter(place)) if isinstance(place, dict) else 0
    place[key] = 1.0 if place[key] is None else place[key] * 1.001 + 1
    assert not compare(case, changed, single=False).passed


def test_the_command_takes_them_by_either_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, other = CASES["roi_kd/c1"], {**CASES["roi_kd/c3"], "kind": "novel"}
    (tmp_path / "roi_kd.json").write_text(json.dumps({"cases": [small]}))
    for name in ("faster_rcnn", "roi_kd"):
        assert oracle.main([str(tmp_path), "--detector", name]) == oracle.PASSED
    assert oracle.main([str(tmp_path), "--detector", "gfl"]) == oracle.INCOMPLETE
    (tmp_path / "roi_kd.json").write_text(json.dumps({"cases": [small, other]}))
    assert oracle.main([str(tmp_path)]) == oracle.INCOMPLETE
    assert "unknown kind 'novel'" in capsys.readouterr().out
