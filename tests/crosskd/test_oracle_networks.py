"""The reference's numbers of whole networks (RTMDet, YOLOX), and that none of them can be overlooked."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import __main__ as oracle
from tests.oracle.network import compare
from tests.support.oracle_runs import assert_met, runs

FOLDER = Path(__file__).parents[1] / "data/oracle/more"
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in oracle.read_cases(FOLDER) if isinstance(case, dict)}
# With boxes and without; RTMDet's output itself and its exponential, YOLOX with its L1 loss and without it.
QUICK = {"rtmdet/tiny-c3", "rtmdet/tiny-exp-allempty", "yolox/nano-c3", "yolox/nano-l1-allempty"}


@pytest.mark.parametrize(("name", "single"), runs(CASES, QUICK, CASES))
def test_the_reference_is_met(name: str, single: bool) -> None:
    assert_met(CASES[name], single=single)


def test_the_vectors_are_all_there() -> None:
    rtmdet = {f"rtmdet/{name}" for name in ("tiny-c3", "tiny-c80-empty1", "s-c7", "tiny-exp-allempty")}
    yolox = {f"yolox/{name}" for name in ("nano-c3", "tiny-c80-empty1", "s-c7-l1", "nano-l1-allempty")}
    assert set(CASES) == rtmdet | yolox


def changed(case: dict[str, Any], *path: Any) -> dict[str, Any]:
    case = copy.deepcopy(case)
    place: Any = case
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] += place[path[-1]] * 1e-3 + 1
    return case


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        ("weight_l2",),
        ("batch_norm", "layers"),
        ("eval_rule", "neck", 2, "samples", 7),
        ("eval_batchstat", "backbone", 0, "shape", 3),
        ("eval_batchstat", "predictions", 1, "count"),
        ("eval_batchstat", "predictions", 0, "bboxes", 3, 2),
        ("train", "towers", "reg.level2.conv2", 3),
        ("train", "losses", "loss_bbox", 1),
        ("train", "assigned", 0, "prior", 5),
        ("train", "assigned", 0, "gt", 5),
        ("train", "normalisers", "bbox_avg_factor"),
        ("train", "grad_l2", "bbox_head.reg_convs.2.1.bn.weight"),
        ("train", "running_after", "backbone.stem.0.bn.running_var", 0),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_no_number_can_change_or_be_missing_unseen(path: tuple[Any, ...], single: bool) -> None:
    case = CASES["rtmdet/tiny-c3"]
    assert compare(case, case, single=single).passed
    assert not compare(case, changed(case, *path), single=single).passed
    computed = copy.deepcopy(case)
    place: Any = computed
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    found = compare(case, computed, single=single)
    assert found.uncompared or not found.passed  # in a list the next number takes its place


def test_the_command_runs_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = {name: value for name, value in CASES["rtmdet/tiny-exp-allempty"].items() if name != "eval_rule"}
    (tmp_path / "rtmdet.json").write_text(json.dumps({"cases": [case, {**case, "use_l1": True}]}))
    assert oracle.main([str(tmp_path)]) == oracle.INCOMPLETE
    printed = capsys.readouterr().out
    assert "ok    train.grad_l2 " in printed
    assert "unknown use_l1 True" in printed
