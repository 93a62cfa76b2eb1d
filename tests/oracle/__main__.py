"""`python -m tests.oracle DIR [--detector NAME] [--float32]`: this project against the reference's numbers.

Runs every case of every vectors file in DIR and prints, per quantity and case, the worst relative error.
Exit status: 0 all within tolerance; 1 a tolerance is passed, or a case is of a detector that does not exist;
2 there is no case, or something in a case was not compared, or a case or a file cannot be read. The rest still runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from crosskd.errors import CrossKDError
from tests.oracle import network, queries, regions
from tests.oracle.case import Case, UnknownDetectorError, UnknownSettingError
from tests.oracle.compare import Comparison, compare
from tests.oracle.compute import compute

PASSED, FAILED, INCOMPLETE = 0, 1, 2
# What a case ends in that says nothing, nonsense or something new: settings are read as they stand.
UNBUILDABLE = (
    UnknownSettingError,
    CrossKDError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
)


def run_case(values: Mapping[str, Any], *, single: bool) -> Comparison:
    """Compute one case anew and compare all of it."""
    dtype = torch.float32 if single else torch.float64
    if regions.is_case(values):
        return regions.compare(values, regions.compute(values, dtype), single=single)
    if queries.is_case(values):
        return queries.compare(values, queries.compute(values, dtype), single=single)
    if values.get("detector") in network.BACKBONES:
        return network.compare(values, network.compute(values, dtype), single=single)
    return compare(values, compute(Case(values), dtype), single=single)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    status, count = PASSED, 0
    for values in read_cases(options.folder):
        if isinstance(values, Unreadable):
            print(values)
            status = INCOMPLETE
        elif options.detector in (None, *_kinds(values)):
            count += 1
            status = max(status, _report(values, single=options.float32))
    if not count:
        print(f"no cases in {options.folder}" + (f" for {options.detector}" if options.detector else ""))
        return INCOMPLETE
    verdict = ("all within tolerance", "FAILED", "INCOMPLETE: not everything was compared")[status]
    print(f"{count} cases in {'float32' if options.float32 else 'float64'}: {verdict}")
    return status


def _kinds(values: Mapping[str, Any]) -> list[Any]:
    """What `--detector` may call a case: its detector, or for want of that its kind of vectors."""
    for kind in (regions, queries):
        if kind.is_case(values):
            return [kind.DETECTOR, kind.PREFIX]
    return [values.get("detector")]


class Unreadable(str):
    """In place of a case, or of a file's cases: why there is none."""


def read_cases(folder: Path) -> Iterator[dict[str, Any] | Unreadable]:
    """The cases of all vectors files in `folder`, file by file in the order of their names."""
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            yield Unreadable(f"{path.name}\n    NOT COMPARED  the file is not JSON: {error}")
            continue
        cases = document.get("cases") if isinstance(document, dict) else None
        if not isinstance(cases, list):
            print(f"{path.name}: no vectors file, it has no list of cases")
            continue
        for number, case in enumerate(cases):
            where = f"{path.name}, case {number}"
            yield (
                queries.completed(case, cases)
                if isinstance(case, dict)
                else Unreadable(f"{where}\n    NOT COMPARED  it is not an object")
            )


def _report(values: Mapping[str, Any], *, single: bool) -> int:
    name = values.get("name", "a case without a name")
    try:
        comparison = run_case(values, single=single)
    except UnknownDetectorError as error:
        print(f"{name}\n    FAIL  {error}")
        return FAILED
    except UNBUILDABLE as error:
        reason = " ".join(str(error).split())
        print(f"{name}\n    NOT COMPARED  the case cannot be built: {type(error).__name__}: {reason}")
        return INCOMPLETE
    print(name, flush=True)
    for quantity, worst in comparison.quantities.items():
        verdict = "ok  " if worst.passed else "FAIL"
        print(f"    {verdict}  {quantity:32} {worst.error:9.2e}  of {worst.tolerance:7.0e}  {worst.where}", flush=True)
    for path in comparison.uncompared:
        print(f"    NOT COMPARED  {path}")
    if not comparison.quantities:
        print("    NOT COMPARED  the case has no results")
    if comparison.uncompared or not comparison.quantities:
        return INCOMPLETE
    return PASSED if comparison.passed else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of vectors files")
    parser.add_argument("--detector", help="run only this detector's cases")
    parser.add_argument("--float32", action="store_true", help="in float32, with its wider tolerances")
    return parser


if __name__ == "__main__":
    sys.exit(main())
