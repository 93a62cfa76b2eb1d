"""A report as one HTML file that needs nothing else: no network, no service, no other file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from report import charts, sweep_charts, vega
from wire.job_report import JobReport
from wire.reports import MetricBuckets
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
    drawn: dict[str, charts.AnyChart] = {}
    if report.losses.items:
        drawn["losses"] = charts.losses(losses_only(report))
    if any(row.model == "student" for row in report.evaluations):
        drawn["ap"] = charts.ap_over_steps(report.evaluations)
    if report.classes:
        drawn["classes"] = charts.classes(report.classes, titles)
    if any(one.curves is not None for one in report.detectors):
        drawn["curves"] = charts.precision_over_recall(report.detectors)
    if any(one.milliseconds is not None and one.metrics is not None for one in report.detectors):
        drawn["cost"] = charts.cost(report.detectors)
    return _page("job.html", drawn, report=report, titles=titles)


def sweep_page(sweep: Sweep) -> str:
    """The page of a sweep's report."""
    drawn: dict[str, charts.AnyChart] = {}
    if any(result.difference is not None for result in sweep.results):
        drawn["differences"] = sweep_charts.differences(sweep)
    if any(result.ap is not None for result in sweep.results):
        drawn["ap"] = sweep_charts.average_precision(sweep)
    classes = sweep_charts.class_rows(sweep)
    if classes:
        drawn["classes"] = sweep_charts.classes(sweep)
    return _page("sweep.html", drawn, sweep=sweep, classes=classes)


def losses_only(report: JobReport) -> MetricBuckets:
    """The series of the report without the learning rate and the like, which have other units."""
    kept = [row for row in report.losses.items if row.key not in charts.NOT_LOSSES]
    return report.losses.model_copy(update={"items": kept})


def _page(template: str, drawn: Mapping[str, charts.AnyChart], **values: Any) -> str:
    specs = {name: chart.to_dict() for name, chart in drawn.items()}
    script = vega.javascript() if specs else ""
    return _templates.get_template(template).render(charts=specs, vega=script, **values)
