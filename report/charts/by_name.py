"""All charts by their names, in Altair: as a drawing alone, whose rows a web page feeds in, or with its rows.

A web page fetches `drawing(name)` once, draws it by vega-embed, and gives it rows by `view.data(dataset, rows)`. What
the rows look like stands at each chart's own function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from report.charts import results, sweeps, training
from report.charts.job_rows import Rows
from report.charts.parts import AnyChart

_UNITS: Final = {
    "learning_rate": "learning rate",
    "throughput": "images per second",
    "steps_per_second": "optimizer steps per second",
    "gradient_norm": "norm of the gradient",
    "memory": "memory (MiB)",
}  # of those that draw one series (`SERIES`)

_CHARTS: dict[str, Callable[[], AnyChart]] = {
    "losses": training.losses,
    "ap": training.average_precision,
    "overlay": lambda: training.overlay("value"),
    "overlay_ap": lambda: training.overlay("COCO AP"),
    "overlay_loss": lambda: training.overlay("loss"),
    "curves": results.precision_over_recall,
    "classes": results.classes,
    "cost": results.cost,
    "differences": sweeps.differences,
    "sweep_ap": sweeps.average_precision,
    "sweep_classes": sweeps.classes,
}

NAMES: Final = (*_CHARTS, *_UNITS)


def drawing(name: str) -> dict[str, Any]:
    """The chart as Vega-Lite JSON without a row of data. Raises: `KeyError` for a name that is not in `NAMES`."""
    drawn: dict[str, Any] = _chart(name).to_dict()
    return drawn


def chart(name: str, rows: Rows) -> AnyChart:
    """The chart with its rows. Raises: `KeyError` for a name that is not in `NAMES`."""
    filled: AnyChart = _chart(name).properties(datasets=rows)
    return filled


def _chart(name: str) -> AnyChart:
    return training.series(_UNITS[name]) if name in _UNITS else _CHARTS[name]()
