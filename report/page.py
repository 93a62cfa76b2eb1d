"""A report as one HTML file that needs nothing else: no network, no service, no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from crosskd.spec.results.dataset_report import DatasetReport
from report.charts import by_name, job_rows, sweep_rows, vega
from report.charts.job_rows import Rows
from report.samples import DatasetPicture, Sample
from wire.job_report import JobReport
from wire.sweeps import Sweep

# What a browser may do with a report that the service itself answers: run its script, apart from the service's own
# address and pages. The script compiles no text: Vega interprets its expressions (`ast`). A file that is opened from a
# disk has no such header and needs none.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-downloads"
)

_OF_JOB = ("losses", "ap", "classes", "curves", "cost")  # the charts that have a place on a job's page

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("report"),
    autoescape=True,  # names, classes and log lines come from outside
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def job_page(report: JobReport, samples: Sequence[Sample] = ()) -> str:
    """The page of a job's report, with sample images."""
    titles: dict[str, str] = {one.role: one.title for one in report.detectors}
    found = job_rows.of_job(report)
    drawn = {name: found[name] for name in _OF_JOB if name in found}
    return _page("job.html", drawn, report=report, titles=titles, samples=samples)


def sweep_page(sweep: Sweep) -> str:
    """The page of a sweep's report."""
    drawn, classes = sweep_rows.of_sweep(sweep), sweep_rows.by_class(sweep)
    return _page("sweep.html", drawn, sweep=sweep, classes=classes)


def dataset_page(report: DatasetReport, pictures: Sequence[DatasetPicture]) -> str:
    """The page of an imported data set: its report, and images with their boxes."""
    most = max((count for row in report.centres for count in row), default=0)
    histograms = {
        "Side of boxes (root of the area, pixels)": report.box_sides,
        "Area of boxes (square pixels)": report.box_areas,
        "Height over width of boxes": report.aspect_ratios,
        "Boxes of an image": report.boxes_per_image,
    }
    return _page("dataset.html", {}, report=report, pictures=pictures, histograms=histograms, most=most)


def _page(template: str, drawn: Mapping[str, Rows], **values: Any) -> str:
    specs = {name: by_name.chart(name, rows).to_dict() for name, rows in drawn.items()}
    script = vega.javascript() if specs else ""
    return _templates.get_template(template).render(charts=specs, vega=script, **values)
