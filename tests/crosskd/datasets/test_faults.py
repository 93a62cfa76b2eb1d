"""The kinds of faults: each has a remedy and stands in the documentation; many are counted, the first are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosskd.datasets.faults import KINDS, DatasetFaults
from crosskd.errors import DataError
from crosskd.spec.results.dataset_report import FIRST

DOCUMENT = Path(__file__).parents[3] / "docs" / "datasets.md"


def test_every_kind_is_documented_with_what_is_done() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    for kind, (done, remedy) in KINDS.items():
        assert remedy.endswith(".")
        assert any(f"`{kind}`" in row and row.endswith(f" {done} |") for row in rows), kind


def test_many_are_counted_and_the_first_are_kept_short() -> None:
    faults = DatasetFaults()
    for number in range(FIRST + 50):
        faults.add("unknown_line", "a.txt", f"line {number}", "x" * 10_000)
    faults.add("polygon", "\udcff.txt", count=3)
    first, second = faults.counts()
    assert (first.count, len(first.first), first.first[-1].id) == (FIRST + 50, FIRST, f"line {FIRST - 1}")
    assert len(first.first[0].why) == 300
    assert (second.count, second.first[0].file) == (3, "\\udcff.txt")
    with pytest.raises(DataError, match=r"150 x unknown_line: a.txt line 0"):
        faults.refuse()


def test_what_is_kept_is_no_reason_to_refuse() -> None:
    faults = DatasetFaults()
    faults.add("polygon", "a.txt")
    faults.refuse()
    assert len(faults.counts()) == 1
