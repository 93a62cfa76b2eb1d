"""The reference's numbers, and the runner that compares with them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import __main__ as oracle
from tests.oracle.compare import compare

VECTORS = Path(__file__).parents[1] / "data/oracle/vectors"
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in oracle.read_cases(VECTORS)}


@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_the_reference_is_met(name: str, single: bool) -> None:
    comparison = oracle.run_case(CASES[name], single=single)
    assert comparison.uncompared == []
    failed = {quantity: worst for quantity, worst in comparison.quantities.items() if not worst.passed}
    assert failed == {}


def test_the_vectors_are_all_there() -> None:
    names = ["base", "idx0", "idx4-empty0-c1", "pkd", "allempty", "plain", "plain-allempty", "base-variant-preact"]
    assert list(CASES) == [f"gfl/{name}" for name in names]
    fields = {field for case in CASES.values() for field in case}
    assert {"losses", "total", "normalisers", "n_pos_per_level", "grad_l2", "outputs", "hold", "eval_outputs"} <= fields


# --- the comparison ---------------------------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the numbers stand."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, child in items for leaf in leaves(child, (*path, key))]
    return [path]


def change(case: dict[str, Any], path: tuple[Any, ...], factor: float) -> dict[str, Any]:
    case = copy.deepcopy(case)
    place: Any = case
    for key in path[:-1]:
        place = place[key]
    value = place[path[-1]]
    place[path[-1]] = 1.0 if value in (None, 0) else value * factor
    return case


RESULTS = [
    "losses",
    "total",
    "normalisers",
    "n_pos_per_level",
    "label_weight_zeros_per_level",
    "grad_l2",
    "grad_l2_all",
    "outputs",
    "hold",
    "predictions",
]


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("field", RESULTS)
def test_no_number_can_change_unseen(field: str, single: bool) -> None:
    case = CASES["gfl/base"]
    assert compare(case, case, single=single).passed
    for path in leaves(case[field], (field,)):
        comparison = compare(change(case, path, 1.1), case, single=single)
        assert not comparison.passed, path
        assert comparison.uncompared == []


@pytest.mark.parametrize("field", RESULTS)
def test_no_field_can_be_missing_unseen(field: str) -> None:
    case = CASES["gfl/base"]
    measured = {name: value for name, value in case.items() if name != field}
    assert compare(case, measured, single=False).uncompared


def test_a_shorter_or_longer_result_is_not_the_expected_one() -> None:
    case = CASES["gfl/base"]
    shorter = {**case, "losses": {**case["losses"], "loss_cls": case["losses"]["loss_cls"][:4]}}
    assert compare(case, shorter, single=False).uncompared == ["losses.loss_cls.4"]
    assert not compare(shorter, case, single=False).passed


def test_not_a_number_never_passes() -> None:
    case = CASES["gfl/plain"]
    assert not compare(case, {**case, "total": float("nan")}, single=True).passed


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def put(folder: Path, *cases: dict[str, Any]) -> list[str]:
    (folder / "vectors.json").write_text(json.dumps({"torch": "2", "threads": 1, "float64": True, "cases": cases}))
    return [str(folder)]


SMALLEST = "gfl/plain-allempty"


def test_it_passes_what_is_right(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert oracle.main(put(folder, CASES[SMALLEST])) == 0
    printed = capsys.readouterr().out
    assert "1 cases in float64: all within tolerance" in printed
    for field in ("losses.loss_cls", "grad_l2", "eval_outputs.bbox_pred", "predictions.bboxes"):
        assert field in printed


def test_it_fails_a_tampered_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tampered = change(CASES[SMALLEST], ("grad_l2", "neck.fpn_convs.2.conv.weight"), 1 + 1e-6)
    assert oracle.main(put(folder, tampered)) == 1
    assert "FAIL  grad_l2 " in capsys.readouterr().out


@pytest.mark.parametrize(
    "more",
    [
        {"losses": {"loss_novel": [0.0] * 5}},
        {"hold": {"student_cls_hold": [[0.0, 0.0, 0.0, 0.0]]}},
        {"outputs": {"student": {"cls_score": [[0.0, 0.0, 0.0]]}}},
        {"normalisers": {"avg_factor": {"deeper": 2.0}}},
        {"predictions": [{"count": 0, "scores": [], "labels": [], "bboxes": [], "areas": [3.0]}]},
        {"a_new_result": 3.0},
        {"kind": "novel"},
        {"variant": "novel"},
    ],
)
def test_it_says_what_it_did_not_compare(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    case = CASES[SMALLEST]
    monkeypatch.setattr(oracle, "measure", lambda *_: case)  # measured once above; here it is about the comparison
    assert oracle.main(put(folder, {**case, **more})) == 2
    assert "NOT COMPARED" in capsys.readouterr().out


def test_a_case_of_another_detector_is_named_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**CASES[SMALLEST], "name": "retinanet/plain", "detector": "retinanet"}
    assert oracle.main(put(folder, other)) == 1
    assert "retinanet/plain\n    FAIL  there is no detector 'retinanet' yet" in capsys.readouterr().out
    assert oracle.main([str(folder), "--detector", "gfl"]) == 2  # which leaves no case


@pytest.mark.parametrize("content", [None, "{}", "[]", '{"cases": []}'])
def test_a_folder_without_cases_is_an_error(folder: Path, content: str | None) -> None:
    if content is not None:
        (folder / "other.json").write_text(content)
    assert oracle.main([str(folder)]) == 2
    assert oracle.main([str(folder / "missing")]) == 2
