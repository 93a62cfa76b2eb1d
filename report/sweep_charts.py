"""Charts of a sweep: what each arm reached, and by how much it differs from the baseline, with error bars."""

from __future__ import annotations

import altair as alt

from report.charts import COLOURS, MOST_CLASSES, WIDTH, AnyChart
from wire.sweeps import Spread, Sweep

_FIGURES = ("difference", "low", "high")
STEP = 36  # pixels for each arm
OUTCOME_COLOURS = {"helps": "#1b7837", "hurts": "#b2182b", "not shown": "#7f7f7f"}


def differences(sweep: Sweep) -> AnyChart:
    """Each arm less the baseline in AP points, with the 95 % interval of the mean; a line marks no difference."""
    rows = [
        {
            "arm": result.arm,
            "difference": 100 * result.difference.mean,
            "low": None if result.difference.low is None else 100 * result.difference.low,
            "high": None if result.difference.high is None else 100 * result.difference.high,
            "pairs": result.difference.pairs,
            "verdict": result.verdict.outcome,
        }
        for result in sweep.results
        if result.difference is not None and result.verdict is not None
    ]
    outcomes = list(OUTCOME_COLOURS)
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("arm:N", title="arm", sort=None),
        color=alt.Color(
            "verdict:N", scale=alt.Scale(domain=outcomes, range=list(OUTCOME_COLOURS.values())), title="verdict"
        ),
        tooltip=[
            "arm:N",
            *(alt.Tooltip(f"{name}:Q", format="+.2f") for name in ("difference", "low", "high")),
            "pairs:Q",
        ],
    )
    title = f"difference to {sweep.baseline} (AP points)"
    none = alt.Chart(alt.Data(values=[{"difference": 0}])).mark_rule(strokeDash=[4, 4]).encode(x="difference:Q")
    bar = base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    point = base.mark_point(filled=True, size=110).encode(x=alt.X("difference:Q", title=title))
    return _by_arm(alt.layer(none, bar, point))


def average_precision(sweep: Sweep) -> AnyChart:
    """The AP of every job as a dot, the mean of its arm with the standard error, and the teacher's as a line."""
    dots = [
        {"arm": child.arm, "AP": child.best_ap, "seed": child.seed}
        for child in sweep.children
        if child.arm is not None and child.status == "succeeded" and child.best_ap is not None and child.best_ap >= 0
    ]
    means = [
        {
            "arm": result.arm,
            "AP": result.ap.mean,
            "low": result.ap.mean - (result.ap.standard_error or 0),
            "high": result.ap.mean + (result.ap.standard_error or 0),
            "jobs": result.ap.n,
        }
        for result in sweep.results
        if result.ap is not None
    ]
    scale = alt.Scale(zero=False, nice=True, padding=20)
    arm = alt.Y("arm:N", title="arm", sort=[result.arm for result in sweep.results])
    ap = alt.X("AP:Q", title="COCO AP", scale=scale)
    each = (
        alt.Chart(alt.Data(values=dots))
        .mark_point(size=30, opacity=0.6)
        .encode(y=arm, x=ap, tooltip=["arm:N", "seed:N", alt.Tooltip("AP:Q", format=".4f")])
    )
    mean = alt.Chart(alt.Data(values=means)).encode(y=arm)
    bar = mean.mark_rule(strokeWidth=3, color=COLOURS["Student"]).encode(x=alt.X("low:Q", title="COCO AP"), x2="high:Q")
    middle = mean.mark_point(filled=True, size=90, color=COLOURS["Student"]).encode(
        x=ap, tooltip=["arm:N", "jobs:Q", alt.Tooltip("AP:Q", format=".4f")]
    )
    layers: list[AnyChart] = [each, bar, middle]
    if sweep.teacher is not None and sweep.teacher.ap is not None:
        line = alt.Chart(alt.Data(values=[{"AP": sweep.teacher.ap}])).mark_rule(
            color=COLOURS["Teacher"], strokeDash=[6, 4]
        )
        layers.append(line.encode(x=ap, tooltip=[alt.Tooltip("AP:Q", title="teacher's AP", format=".4f")]))
    return _by_arm(alt.layer(*layers))


def classes(sweep: Sweep) -> AnyChart:
    """Mean AP by class and arm, the classes in which an arm loses most to the baseline first."""
    shown = [name for name, _ in class_rows(sweep)][:MOST_CLASSES]
    values = [
        {"class": name, "arm": result.arm, "AP": result.by_class[name].mean}
        for name in shown
        for result in sweep.results
        if name in result.by_class
    ]
    arms = [result.arm for result in sweep.results]
    chart: AnyChart = (
        alt.Chart(alt.Data(values=values))
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(
            x=alt.X("AP:Q", title="COCO AP", scale=alt.Scale(zero=True)),
            y=alt.Y("class:N", title="class", sort=shown),
            color=alt.Color("arm:N", title="arm", scale=alt.Scale(domain=arms)),
            shape=alt.Shape("arm:N", title="arm", scale=alt.Scale(domain=arms)),
            tooltip=["class:N", "arm:N", alt.Tooltip("AP:Q", format=".4f")],
        )
        .properties(width=WIDTH, height={"step": 18})
        .configure_legend(orient="bottom")
    )
    return chart


def class_rows(sweep: Sweep) -> list[tuple[str, list[float | None]]]:
    """Each class with its mean AP by arm, in the arms' order; the greatest loss to the baseline first."""
    base = next(result for result in sweep.results if result.baseline)
    names = dict.fromkeys(name for result in sweep.results for name in result.by_class)
    rows = [(name, [_mean(result.by_class.get(name)) for result in sweep.results]) for name in names]

    def worst(row: tuple[str, list[float | None]]) -> tuple[float, str]:
        reference = _mean(base.by_class.get(row[0]))
        losses = [value - reference for value in row[1] if value is not None and reference is not None]
        return (min(losses, default=0.0), row[0])

    return sorted(rows, key=worst)


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean


def _by_arm(chart: AnyChart) -> AnyChart:
    sized: AnyChart = chart.properties(width=WIDTH, height={"step": STEP}).configure_legend(orient="bottom")
    return sized
