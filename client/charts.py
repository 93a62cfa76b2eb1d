"""Charts of a job or a sweep: in a notebook, or as a picture. They need `pip install 'crosskd[charts]'`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from client.errors import ClientError, MissingPackage
from crosskd.spec.nearest import did_you_mean
from report.charts import job_rows, sweep_rows
from wire.job_report import JobReport
from wire.sweeps import Sweep

if TYPE_CHECKING:
    from report.charts.parts import AnyChart

OTHER_NAMES = {"loss": "losses", "lr": "learning_rate"}
WIDTH = 600  # pixels: a notebook's cell and a picture have no width of their own
SHARPNESS = 2.0  # dots of a PNG for each pixel
FORMS = (".png", ".svg", ".json")


def of_job(report: JobReport, name: str) -> AnyChart:
    """Raises: `ClientError` for a chart that there is not, that has no rows, or without the libraries that draw."""
    return _drawn(job_rows.of_job(report), name, "The job")


def of_sweep(sweep: Sweep, name: str) -> AnyChart:
    """As `of_job`."""
    return _drawn(sweep_rows.of_sweep(sweep), name, "The sweep")


def encoded(chart: AnyChart, form: str) -> bytes:
    """The chart as a file of one of `FORMS`; JSON is Vega-Lite with the rows in it."""
    drawn = chart.to_dict()
    if form == ".json":
        return json.dumps(drawn, indent=2).encode()
    with _libraries():
        import vl_convert
    if form == ".svg":
        return vl_convert.vegalite_to_svg(drawn).encode()
    picture: bytes = vl_convert.vegalite_to_png(drawn, scale=SHARPNESS)
    return picture


def _drawn(found: Mapping[str, job_rows.Rows], called: str, whose: str) -> AnyChart:
    with _libraries():
        from report.charts import by_name
    name = OTHER_NAMES.get(called, called)
    if name not in by_name.NAMES:
        near = did_you_mean(called, [*by_name.NAMES, *OTHER_NAMES])
        raise ClientError(f"There is no chart {called[:100]!r}.", remedy=f"{near} {_those_of(found, whose)}".strip())
    if name not in found:
        raise ClientError(f"{whose} has nothing to draw for {called!r}.", remedy=_those_of(found, whose))
    chart: AnyChart = by_name.chart(name, found[name]).properties(width=WIDTH)
    return chart


def _those_of(found: Mapping[str, job_rows.Rows], whose: str) -> str:
    return f"{whose} has {', '.join(found)}." if found else f"{whose} has no charts so far."


@contextmanager
def _libraries() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackage("Charts need", error.name, "charts") from error
