"""Drawings of what detectors reached and cost. Each says which rows it wants, by the name of their data set.

A `detector` in a row is the title of its column in a report: `Teacher`, `Student alone`, `Student` or `Detector`.
"""

from __future__ import annotations

import json

import altair as alt

from report.charts import palette
from report.charts.parts import AnyChart, by_class, over, sized


def classes() -> AnyChart:
    """AP by class and detector, in the order of the rows.

    `classes`: a row for each class and detector {class: its name, detector, AP: 0..1}, without what is null.
    """
    return by_class(_of_detectors("classes"), alt.Shape("detector:N", title="detector"))


def precision_over_recall() -> AnyChart:
    """The mean over classes.

    `curves`: a row for each point of each curve {detector, IoU: "0.50" or "0.50:0.95", recall: 0..1, precision: 0..1},
    without a precision of -1.
    """
    chart = (
        _of_detectors("curves")
        .mark_line()
        .encode(
            x=alt.X("recall:Q", title="recall", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("precision:Q", title="precision", scale=alt.Scale(domain=[0, 1])),
            strokeDash=alt.StrokeDash("IoU:N", title="IoU"),
            tooltip=["detector:N", "IoU:N", "recall:Q", alt.Tooltip("precision:Q", format=".3f")],
        )
    )
    return sized(chart)


def cost() -> AnyChart:
    """AP over the time of one image; the point's area is the number of parameters.

    `cost`: a row for each detector {detector, AP: 0..1, milliseconds, parameters: or null}.
    """
    areas = alt.Legend(symbolFillColor=palette.GREY, symbolStrokeColor=palette.GREY, tickCount=3, format="~s")
    chart = (
        _of_detectors("cost")
        .mark_point(filled=True, opacity=1)
        .encode(
            x=alt.X("milliseconds:Q", title="time of one image (ms)", scale=_from_zero()),
            y=alt.Y("AP:Q", title="COCO AP", scale=_from_zero()),
            # The legend and the hover name them: names beside the points lie over each other where two are close.
            shape=alt.Shape("detector:N", title="detector"),
            size=alt.Size("parameters:Q", title="parameters", scale=alt.Scale(range=[60, 600]), legend=areas),
            tooltip=[
                "detector:N",
                alt.Tooltip("AP:Q", format=".4f"),
                alt.Tooltip("milliseconds:Q", format=".4g"),
                alt.Tooltip("parameters:Q", format=","),
            ],
        )
    )
    return sized(chart)


def _from_zero() -> alt.Scale:
    """No room below 0, where neither a time nor an AP lies."""
    return alt.Scale(domainMin=0, nice=True)


def _of_detectors(dataset: str) -> alt.Chart:
    """Each detector in its own colour, and only those in the legend that have rows."""
    colour = f"{json.dumps(palette.DETECTORS)}[datum.detector]"
    return (
        over(dataset)
        .transform_calculate(colour=colour)
        .encode(color=alt.Color("detector:N", title="detector", scale=alt.Scale(range=alt.FieldRange(field="colour"))))
    )
