"""Tests of the reference's vectors: which case is run in which precision, and that one is met."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pytest

from tests.oracle import __main__ as oracle


def runs(names: Iterable[str], quick: Collection[str], single: Collection[str]) -> list[Any]:
    """Parameters (name, single): each case in float64, those of `single` in float32 too; slow but for the quick."""
    return [
        pytest.param(name, in_single, id=f"{name}-{kind}", marks=[] if fast else pytest.mark.slow)
        for name in names
        for in_single, kind in ((False, "float64"), (True, "float32"))
        for fast in (name in quick and not in_single,)
        if name in single or not in_single
    ]


def assert_met(case: Mapping[str, Any], *, single: bool) -> None:
    comparison = oracle.run_case(case, single=single)
    assert comparison.uncompared == []
    failed = {quantity: worst for quantity, worst in comparison.quantities.items() if not worst.passed}
    assert failed == {}
