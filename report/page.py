"""A report as one HTML file that needs nothing else: no network, no service, no other file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from report import chart_rows, charts, sweep_rows, vega
from report.chart_rows import Rows
from wire.job_report import JobReport
from wire.sweeps import Sweep

# What a browser may do with a report that the service itself answers: run its script (Vega compiles its expressions),
# apart from the service's own address and pages. A file that is opened from a disk has no such header and needs none.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-downloads"
)

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("report"),
    autoescape=True,  # names, classes and log lines come from outside
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def job_page(report: JobReport) -> str:
    """The page of a job's report."""
    titles: dict[str, str] = {one.role: one.title for one in report.detectors}
    drawn: dict[str, Rows] = {}
    if report.losses.items:
        drawn["losses"] = chart_rows.losses(report.losses)
    if any(row.model == "student" for row in report.evaluations):
        drawn["ap"] = chart_rows.average_precision(report.evaluations)
    if report.classes:
        drawn["classes"] = chart_rows.classes(report.classes, titles)
    if any(one.curves is not None for one in report.detectors):
        drawn["curves"] = chart_rows.precision_over_recall(report.detectors)
    if any(one.milliseconds is not None and one.metrics is not None for one in report.detectors):
        drawn["cost"] = chart_rows.cost(report.detectors)
    return _page("job.html", drawn, report=report, titles=titles)


def sweep_page(sweep: Sweep) -> str:
    """The page of a sweep's report."""
    drawn: dict[str, Rows] = {}
    if any(result.difference is not None for result in sweep.results):
        drawn["differences"] = sweep_rows.differences(sweep)
    if any(result.ap is not None for result in sweep.results):
        drawn["sweep_ap"] = sweep_rows.average_precision(sweep)
    classes = sweep_rows.by_class(sweep)
    if classes:
        drawn["sweep_classes"] = sweep_rows.classes(sweep)
    return _page("sweep.html", drawn, sweep=sweep, classes=classes)


def _page(template: str, drawn: Mapping[str, Rows], **values: Any) -> str:
    specs = {name: charts.chart(name, rows).to_dict() for name, rows in drawn.items()}
    script = vega.javascript() if specs else ""
    return _templates.get_template(template).render(charts=specs, vega=script, **values)
