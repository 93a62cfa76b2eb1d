"""The rows of a sweep's charts and tables: for each chart its data sets, each a list of plain rows."""

from __future__ import annotations

from report.charts.job_rows import MOST_CLASSES, Rows
from wire.sweeps import Spread, Sweep


def of_sweep(sweep: Sweep) -> dict[str, Rows]:
    """By the names in `by_name`; only charts that have a row."""
    known = {
        "differences": differences(sweep),
        "sweep_ap": average_precision(sweep),
        "sweep_classes": classes(sweep),
    }
    return {name: rows for name, rows in known.items() if any(rows.values())}


def differences(sweep: Sweep) -> Rows:
    return {
        "differences": [
            {
                "arm": result.arm,
                "difference": 100 * result.difference.mean,
                "low": None if result.difference.low is None else 100 * result.difference.low,
                "high": None if result.difference.high is None else 100 * result.difference.high,
                "pairs": result.difference.pairs,
                "verdict": result.verdict.outcome,
            }
            for result in sweep.results
            if result.difference is not None and result.verdict is not None
        ]
    }


def average_precision(sweep: Sweep) -> Rows:
    known = [(result.arm, result.ap) for result in sweep.results if result.ap is not None]
    return {
        "arms": [
            {
                "arm": arm,
                "AP": ap.mean,
                "low": ap.mean - (ap.standard_error or 0),
                "high": ap.mean + (ap.standard_error or 0),
                "jobs": ap.n,
            }
            for arm, ap in known
        ],
        "jobs": [
            {"arm": child.arm, "AP": child.best_ap, "seed": child.seed}
            for child in sweep.children
            if child.arm is not None
            and child.status == "succeeded"
            and child.best_ap is not None
            and child.best_ap >= 0
        ],
        "teacher": [] if sweep.teacher is None or sweep.teacher.ap is None else [{"AP": sweep.teacher.ap}],
    }


def classes(sweep: Sweep) -> Rows:
    """The first `MOST_CLASSES`, those in which an arm loses most to the baseline first."""
    shown = [name for name, _ in by_class(sweep)][:MOST_CLASSES]
    return {
        "classes": [
            {"class": name, "arm": result.arm, "AP": result.by_class[name].mean}
            for name in shown
            for result in sweep.results
            if name in result.by_class
        ]
    }


def by_class(sweep: Sweep) -> list[tuple[str, list[float | None]]]:
    """Each class with its mean AP by arm, in the arms' order; the greatest loss to the baseline first."""
    base = next(result for result in sweep.results if result.baseline)
    names = dict.fromkeys(name for result in sweep.results for name in result.by_class)
    rows = [(name, [_mean(result.by_class.get(name)) for result in sweep.results]) for name in names]

    def worst(row: tuple[str, list[float | None]]) -> tuple[float, str]:
        reference = _mean(base.by_class.get(row[0]))
        losses = [value - reference for value in row[1] if value is not None and reference is not None]
        return (min(losses, default=0.0), row[0])

    return sorted(rows, key=worst)


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean
