"""Drawings of a sweep: what each arm reached, and by how much it differs from the baseline, with error bars.

Each says which rows it wants, by the name of their data set. Arms stand in the order of the rows.
"""

from __future__ import annotations

import altair as alt

from report.charts import palette
from report.charts.parts import AnyChart, by_class, by_row, over, series_colour

ARM_STEP = 36  # pixels for each arm


def differences() -> AnyChart:
    """Each arm less the baseline, with the 95 % interval of the mean; a line marks no difference.

    `differences`: a row for each arm but the baseline {arm, difference: in AP points (hundredths), low and high: its
    interval, or null, pairs: how many pairs of the same seed, verdict: "helps", "hurts" or "not shown"}.
    """
    scale = alt.Scale(domain=list(palette.OUTCOMES), range=list(palette.OUTCOMES.values()))
    base = over("differences").encode(
        y=alt.Y("arm:N", title="arm", sort=None),
        color=alt.Color("verdict:N", scale=scale, title="verdict"),
        tooltip=[
            "arm:N",
            *(alt.Tooltip(f"{name}:Q", format="+.2f") for name in ("difference", "low", "high")),
            "pairs:Q",
            "verdict:N",
        ],
    )
    title = "difference to the baseline (AP points)"
    none = over("differences").mark_rule(strokeDash=[4, 4], color=palette.GREY).encode(x=alt.datum(0))
    bar = base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    point = base.mark_point(filled=True, size=110, opacity=1).encode(x=alt.X("difference:Q", title=title))
    return by_row(alt.layer(none, bar, point), ARM_STEP)


def average_precision() -> AnyChart:
    """The AP of every job as a ring, the mean of its arm with the standard error, and the teacher's as a line.

    `arms`: a row for each arm {arm, AP: the mean, 0..1, low and high: less and more the standard error, jobs}. `jobs`:
    a row for each job that succeeded {arm, AP, seed}. `teacher`: {AP}, or no row.
    """
    arm = alt.Y("arm:N", title="arm", sort=None)
    ap = alt.X("AP:Q", title="COCO AP", scale=alt.Scale(zero=False, nice=True, padding=20))
    mean = over("arms").encode(y=arm)
    bar = mean.mark_rule(strokeWidth=3, color=palette.ORANGE).encode(x=alt.X("low:Q", title="COCO AP"), x2="high:Q")
    middle = mean.mark_point(filled=True, size=90, color=palette.ORANGE, opacity=1).encode(
        x=ap,
        tooltip=["arm:N", "jobs:Q", *(alt.Tooltip(f"{name}:Q", format=".4f") for name in ("AP", "low", "high"))],
    )
    each = over("jobs").mark_point(size=30, color=palette.BLUE, opacity=1).encode(y=arm, x=ap)
    each = each.encode(tooltip=["arm:N", "seed:N", alt.Tooltip("AP:Q", format=".4f")])
    teacher = over("teacher").mark_rule(color=palette.DETECTORS["Teacher"], strokeDash=[6, 4], strokeWidth=2)
    across = teacher.encode(x=ap, tooltip=[alt.Tooltip("AP:Q", title="teacher's AP", format=".4f")])
    return by_row(alt.layer(bar, middle, each, across), ARM_STEP)


def classes() -> AnyChart:
    """Mean AP by class and arm, in the order of the rows.

    `classes`: a row for each class and arm {class: its name, arm, AP: the mean, 0..1}.
    """
    arms = over("classes").encode(color=series_colour("arm", "arm"))
    return by_class(arms, alt.Shape("arm:N", title="arm", sort=None))
