"""Drawings of what a training reports by step. Each says which rows it wants, by the name of their data set.

Rows are plain: numbers, texts and null. What is not finite (the API spells it `NaN`, `Infinity`, `-Infinity`) is no
value of a line, but a row of `broken`.
"""

from __future__ import annotations

import altair as alt

from report.charts import palette
from report.charts.parts import AnyChart, crosses, over, rule_at_step, rule_through_series, series_colour, steps, zoomed


def losses() -> AnyChart:
    """The loss and its terms: smoothed lines, the last values faintly behind, bands from least to greatest of a bucket.

    `losses`: a row for each bucket and term {step: its `last_step`, term: its `key`, loss: `last`, smooth: the smoothed
    value, or `last` where nothing is smoothed, least: `min`, greatest: `max`}. `broken`: a row for each bucket with
    what is not finite {step, term, value: such as "NaN"}.
    """
    colour = series_colour("term", "term")
    base = over("losses").encode(x=steps(), color=colour)
    band = base.mark_area(opacity=0.15).encode(
        y=alt.Y("least:Q", title="loss", scale=alt.Scale(zero=False)), y2="greatest:Q"
    )
    raw = base.mark_line(strokeWidth=1, opacity=0.3).encode(y=alt.Y("loss:Q", title="loss"))
    smooth = base.mark_line(strokeWidth=1.5).encode(y=alt.Y("smooth:Q", title="loss"))
    broken = crosses("broken", colour=colour, tooltip=["term:N", "step:Q", "value:N"])
    return zoomed(band, raw, smooth, rule_through_series("losses", series="term", value="loss", form=".4g"), broken)


def average_precision() -> AnyChart:
    """The student's AP at each evaluation, the best as a larger point, the teacher's as a dashed line across.

    `student`: a row for each of its evaluations {step, AP: 0..1, epoch, best: true or false}, without those whose AP
    is -1. `teacher`: its last one {AP}, or no row.
    """
    axis = alt.Y("AP:Q", title="COCO AP", scale=alt.Scale(zero=True))
    base = over("student").encode(x=steps(), y=axis)
    line = base.mark_line(color=palette.DETECTORS["Student"])
    points = base.mark_point(filled=True, opacity=1, color=palette.DETECTORS["Student"]).encode(
        size=alt.condition("datum.best", alt.value(140), alt.value(40))
    )
    teacher = over("teacher").mark_rule(color=palette.DETECTORS["Teacher"], strokeDash=[6, 4], strokeWidth=2)
    across = teacher.encode(y=axis, tooltip=[alt.Tooltip("AP:Q", title="teacher's AP", format=".4f")])
    told = [alt.Tooltip("step:Q"), alt.Tooltip("epoch:Q", format=".2f"), alt.Tooltip("AP:Q", format=".4f")]
    return zoomed(line, points, across, rule_at_step("student", told))


def series(title: str) -> AnyChart:
    """One series with its unit as `title`: the smoothed line, the last values faintly behind, a band as of `losses`.

    `series`: a row for each bucket {step: its `last_step`, value: `last`, smooth: the smoothed value, or `last` where
    nothing is smoothed, least: `min`, greatest: `max`}. `broken`: a row for each bucket with what is not finite {step,
    value: such as "NaN"}.
    """
    axis = alt.Scale(zero=False)
    base = over("series").encode(x=steps())
    band = base.mark_area(opacity=0.2, color=palette.BLUE).encode(
        y=alt.Y("least:Q", title=title, scale=axis), y2="greatest:Q"
    )
    raw = base.mark_line(strokeWidth=1, opacity=0.3, color=palette.BLUE).encode(y=alt.Y("value:Q", title=title))
    smooth = base.mark_line(strokeWidth=1.5, color=palette.BLUE).encode(y=alt.Y("smooth:Q", title=title))
    told = [
        alt.Tooltip("step:Q"),
        alt.Tooltip("value:Q", title=title, format=".4g"),
        alt.Tooltip("least:Q", format=".4g"),
        alt.Tooltip("greatest:Q", format=".4g"),
    ]
    broken = crosses("broken", tooltip=["step:Q", "value:N"])
    return zoomed(band, raw, smooth, rule_at_step("series", told), broken)


def overlay(title: str) -> AnyChart:
    """The same series of several jobs, with its unit as `title`: the smoothed lines, the raw ones faintly behind.

    `lines`: a row for each job and step {job: its name, which no other has, step, value, smooth: the smoothed value,
    or `value` where nothing is smoothed}. `broken`: a row for each point that is not finite {job, step, value: such as
    "NaN"}.
    """
    colour = series_colour("job", "job")
    base = over("lines").encode(x=steps(), color=colour)
    scale = alt.Scale(zero=False)
    raw = base.mark_line(strokeWidth=1, opacity=0.3).encode(y=alt.Y("value:Q", title=title, scale=scale))
    smooth = base.mark_line(strokeWidth=2).encode(y=alt.Y("smooth:Q", title=title))
    broken = crosses("broken", colour=colour, tooltip=["job:N", "step:Q", "value:N"])
    return zoomed(raw, smooth, rule_through_series("lines", series="job", value="smooth", form=".4g"), broken)
