"""Answers with many rows, as lists that can also become a pandas table; and a sweep's results as rows."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from client.errors import MissingPackage
from wire.reports import CocoMetrics, Evaluation, MetricRow
from wire.sweeps import ArmResult, Spread, Sweep

if TYPE_CHECKING:
    import pandas


class Metrics(list[MetricRow]):
    """The points of a job's series, by step and key."""

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each step, a column for each series: `frame["loss"].plot()`.

        Where a step has no point of a series, and where a value is not finite, stands NaN, or an infinity with its
        sign. It needs `pip install 'crosskd[pandas]'`. Raises: `MissingPackage`.
        """
        rows = [(row.step, row.key, float(row.value)) for row in self]  # which reads "nan" and "-inf" as well
        return _frame(rows, ["step", "key", "value"]).pivot(index="step", columns="key", values="value")


class Evaluations(list[Evaluation]):
    """The evaluations of a job, by step."""

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each evaluation: its model, step and epoch, and the 12 numbers of COCO. As `Metrics.to_pandas`."""
        rows = [
            {"model": row.model, "step": row.step, "epoch": row.epoch, **row.metrics.model_dump(), "best": row.best}
            for row in self
        ]
        return _frame(rows, ["model", "step", "epoch", *CocoMetrics.model_fields, "best"])


@dataclass(frozen=True)
class ArmRow:
    """What the jobs of an arm have reached; None: not known (yet). AP is 0..1."""

    arm: str
    baseline: bool
    finished: int
    ap: float | None  # mean over the seeds
    ap_error: float | None  # standard error of that mean
    ap50: float | None
    ap75: float | None
    difference: float | None  # to the baseline, in AP
    low: float | None  # of its 95 % interval
    high: float | None
    verdict: str | None  # helps, hurts, not shown
    gap_closed: float | None  # share of the way to the teacher
    training_seconds: float | None
    milliseconds: float | None  # of an image

    @classmethod
    def of(cls, result: ArmResult) -> ArmRow:
        """The row of an arm."""
        difference, verdict = result.difference, result.verdict
        return cls(
            arm=result.arm,
            baseline=result.baseline,
            finished=result.finished,
            ap=_mean(result.ap),
            ap_error=None if result.ap is None else result.ap.standard_error,
            ap50=_mean(result.ap50),
            ap75=_mean(result.ap75),
            difference=None if difference is None else difference.mean,
            low=None if difference is None else difference.low,
            high=None if difference is None else difference.high,
            verdict=None if verdict is None else verdict.outcome,
            gap_closed=result.gap_closed,
            training_seconds=_mean(result.training_seconds),
            milliseconds=_mean(result.milliseconds),
        )


class SweepTable(list[ArmRow]):
    """A row for each arm of a sweep, the baseline first. Printed, and in a notebook, it is a table."""

    def to_pandas(self) -> pandas.DataFrame:
        """As `Metrics.to_pandas`: a row for each arm, a column for each field of `ArmRow`."""
        return _frame([asdict(row) for row in self], _COLUMNS)

    def __str__(self) -> str:
        cells = [_COLUMNS, *([_text(value) for value in asdict(row).values()] for row in self)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        rows = ("".join(f"<td>{html.escape(_text(value))}</td>" for value in asdict(row).values()) for row in self)
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


_COLUMNS = [field.name for field in fields(ArmRow)]


def of_sweep(sweep: Sweep) -> SweepTable:
    """Its results so far."""
    return SweepTable(map(ArmRow.of, sweep.results))


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _frame(rows: Sequence[Any], columns: list[str]) -> pandas.DataFrame:
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise MissingPackage("A pandas table needs", error.name, "pandas") from error
    return pandas.DataFrame(rows, columns=columns)
