"""Charts of what the wire tells, in Altair: pages and reports embed them, notebooks show them.

Long series come as buckets (`GET /jobs/{id}/metrics?buckets=400`), in which spikes survive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import altair as alt

from wire.job_report import ReportedDetector, ReportedNumber
from wire.reports import Evaluation, MetricBuckets

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart

WIDTH, HEIGHT = "container", 260
COLOURS = {"Teacher": "#7f7f7f", "Student alone": "#1f77b4", "Student": "#d95f02", "Detector": "#d95f02"}
MOST_CLASSES = 40  # bars of a chart; the table has all

# Of the series of a training, those that are no losses.
NOT_LOSSES = frozenset(
    {"lr", "grad_norm", "steps_per_second", "images_per_second", "data_wait", "memory_mib", "utilisation"}
)


def losses(buckets: MetricBuckets) -> AnyChart:
    """The loss and its terms over steps: lines of the last values, bands from the least to the greatest of a bucket.

    Points that are not finite have no place on the axis; they stand as crosses at its upper end.
    """
    rows = [
        {"step": row.last_step, "term": row.key, "loss": row.last, "least": row.min, "greatest": row.max}
        for row in buckets.items
        if isinstance(row.last, float) and row.min is not None
    ]
    broken = [
        {"step": row.step, "term": row.key, "value": ", ".join(row.non_finite)}
        for row in buckets.items
        if row.non_finite
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("step:Q", title="optimizer step"), color=alt.Color("term:N", title="term")
    )
    band = base.mark_area(opacity=0.15).encode(
        y=alt.Y("least:Q", title="loss", scale=alt.Scale(zero=False)), y2="greatest:Q"
    )
    line = base.mark_line(strokeWidth=1.5).encode(
        y="loss:Q", tooltip=["term:N", "step:Q", alt.Tooltip("loss:Q", format=".4f")]
    )
    crosses = (
        alt.Chart(alt.Data(values=broken))
        .mark_point(shape="cross", size=60, angle=45)
        .encode(x="step:Q", y=alt.value(6), color="term:N", tooltip=["term:N", "step:Q", "value:N"])
    )
    return _sized(alt.layer(band, line, crosses).interactive(bind_y=False))


def ap_over_steps(evaluations: Sequence[Evaluation]) -> AnyChart:
    """The student's AP at each evaluation, the teacher's as a line across."""
    student = [
        {"step": row.step, "AP": row.metrics.AP, "epoch": row.epoch, "best": row.best}
        for row in evaluations
        if row.model == "student" and row.metrics.AP >= 0
    ]
    teacher = [{"AP": row.metrics.AP} for row in evaluations if row.model == "teacher" and row.metrics.AP >= 0][-1:]
    axis = alt.Y("AP:Q", title="COCO AP", scale=alt.Scale(zero=True))
    line = (
        alt.Chart(alt.Data(values=student))
        .mark_line(point={"color": COLOURS["Student"]}, color=COLOURS["Student"])
        .encode(
            x=alt.X("step:Q", title="optimizer step"),
            y=axis,
            tooltip=["step:Q", alt.Tooltip("epoch:Q", format=".2f"), alt.Tooltip("AP:Q", format=".4f"), "best:N"],
        )
    )
    rule = (
        alt.Chart(alt.Data(values=teacher))
        .mark_rule(color=COLOURS["Teacher"], strokeDash=[6, 4])
        .encode(y=axis, tooltip=[alt.Tooltip("AP:Q", title="teacher's AP", format=".4f")])
    )
    return _sized(alt.layer(line, rule))


def classes(rows: Sequence[ReportedNumber], titles: Mapping[str, str]) -> AnyChart:
    """AP by class and detector, in the order of `rows`, the first `MOST_CLASSES`. `titles`: of each role."""
    shown = list(rows)[:MOST_CLASSES]
    values = [
        {"class": row.name, "detector": titles[role], "AP": value}
        for row in shown
        for role, value in row.values.items()
        if value is not None
    ]
    order = [row.name for row in shown]
    chart: AnyChart = (
        alt.Chart(alt.Data(values=values))
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(
            x=alt.X("AP:Q", title="COCO AP", scale=alt.Scale(zero=True)),
            y=alt.Y("class:N", title="class", sort=order),
            color=_detector_colour(list(titles.values())),
            shape=alt.Shape("detector:N", title="detector", scale=alt.Scale(domain=list(titles.values()))),
            tooltip=["class:N", "detector:N", alt.Tooltip("AP:Q", format=".4f")],
        )
        .properties(width=WIDTH, height={"step": 18})
        .configure_legend(orient="bottom")
    )
    return chart


def precision_over_recall(detectors: Sequence[ReportedDetector]) -> AnyChart:
    """The mean over classes, at IoU 0.50 and over 0.50:0.95; only of those that left curves."""
    values = [
        {"detector": one.title, "IoU": iou, "recall": recall, "precision": precision}
        for one in detectors
        if one.curves is not None and one.curves.mean is not None
        for iou in ("0.50", "0.50:0.95")
        for recall, precision in zip(one.curves.recall, one.curves.mean.get(iou, []), strict=False)
        if math.isfinite(precision) and precision >= 0
    ]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line()
        .encode(
            x=alt.X("recall:Q", title="recall", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("precision:Q", title="precision", scale=alt.Scale(domain=[0, 1])),
            color=_detector_colour([one.title for one in detectors]),
            strokeDash=alt.StrokeDash("IoU:N", title="IoU"),
            tooltip=["detector:N", "IoU:N", "recall:Q", alt.Tooltip("precision:Q", format=".3f")],
        )
    )
    return _sized(chart)


def cost(detectors: Sequence[ReportedDetector]) -> AnyChart:
    """AP over the time of one image; the point's area is the number of parameters."""
    values = [
        {"detector": one.title, "AP": one.metrics.AP, "milliseconds": one.milliseconds, "parameters": one.parameters}
        for one in detectors
        if one.metrics is not None and one.metrics.AP >= 0 and one.milliseconds is not None
    ]
    # Room for the largest points and their names, and none below 0, where neither a time nor an AP lies.
    times = _from_zero([one.milliseconds or 0.0 for one in detectors])
    aps = _from_zero([one.metrics.AP for one in detectors if one.metrics is not None])
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("milliseconds:Q", title="time of one image (ms)", scale=times),
        y=alt.Y("AP:Q", title="COCO AP", scale=aps),
        color=_detector_colour([one.title for one in detectors]),
    )
    points = base.mark_circle(opacity=0.8).encode(
        size=alt.Size("parameters:Q", title="parameters", scale=alt.Scale(range=[60, 600])),
        tooltip=[
            "detector:N",
            alt.Tooltip("AP:Q", format=".4f"),
            "milliseconds:Q",
            alt.Tooltip("parameters:Q", format=","),
        ],
    )
    names = base.mark_text(align="left", dx=16).encode(text="detector:N")
    return _sized(alt.layer(points, names))


def _from_zero(values: Sequence[float]) -> alt.Scale:
    return alt.Scale(domain=[0, 1.25 * max([0.0, *values]) or 1.0])


def _detector_colour(titles: Sequence[str]) -> alt.Color:
    return alt.Color(
        "detector:N",
        title="detector",
        scale=alt.Scale(domain=list(titles), range=[COLOURS.get(title, "#2ca02c") for title in titles]),
    )


def _sized(chart: AnyChart) -> AnyChart:
    sized: AnyChart = chart.properties(width=WIDTH, height=HEIGHT)
    return sized
