"""What several charts have alike: data that is named but not there, the axis of steps, hovering, crosses, sizes."""

from __future__ import annotations

import altair as alt

from report.charts import palette

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart

WIDTH, HEIGHT = "container", 260
CLASS_STEP = 18  # pixels for each class


def over(dataset: str) -> alt.Chart:
    """A chart of the rows that will be given under the name `dataset`."""
    return alt.Chart(alt.NamedData(dataset))


def steps() -> alt.X:
    return alt.X("step:Q", title="optimizer step")


def series_colour(field: str, title: str) -> alt.Color:
    """Of as many series as there are, in the order of their rows; the legend as clear as the clearest of the marks."""
    legend = alt.Legend(symbolOpacity=1)
    return alt.Color(f"{field}:N", title=title, sort=None, scale=alt.Scale(range=list(palette.PALETTE)), legend=legend)


def crosses(dataset: str, *, colour: alt.Color | None = None, tooltip: list[str]) -> alt.Chart:
    """Points that are not finite: they have no place on the axis, so they stand at its upper end."""
    base = over(dataset) if colour is None else over(dataset).encode(color=colour)
    marks = base.mark_point(shape="cross", size=60, angle=45, opacity=1, color=palette.RED)
    placed: alt.Chart = marks.encode(x=steps(), y=alt.value(6), tooltip=tooltip)
    return placed


def rule_at_step(dataset: str, tooltip: list[alt.Tooltip]) -> alt.Chart:
    """A vertical line at the step that is nearest to the pointer, with the figures of its row."""
    return _shown_when_near(over(dataset).mark_rule(color=palette.GREY).encode(tooltip=tooltip))


def rule_through_series(dataset: str, *, series: str, value: str, form: str) -> alt.Chart:
    """The same across several series: one row for each step, with the figure of each series there.

    Only steps are searched, not all points: as many as a series has, however many series there are.
    """
    wide = (
        over(dataset)
        .transform_calculate(shown=f"format(datum['{value}'], '{form}')")
        .transform_pivot(series, value="shown", groupby=["step"], op="max")
        .mark_rule(color=palette.GREY, tooltip={"content": "data"})
    )
    return _shown_when_near(wide)


def _shown_when_near(rule: alt.Chart) -> alt.Chart:
    near = alt.selection_point(
        name="near", nearest=True, on="pointermove", clear="pointerout", fields=["step"], empty=False
    )
    opacity = alt.condition(near, alt.value(0.7), alt.value(0))
    return rule.encode(x=steps(), opacity=opacity).add_params(near)


def zoomed(*layers: alt.Chart) -> AnyChart:
    """Layers over steps: the wheel zooms along the steps, and a double click shows all again."""
    chart: AnyChart = sized(alt.layer(*layers).interactive(name="zoom", bind_y=False))
    return chart


def sized(chart: AnyChart) -> AnyChart:
    return _fitted(chart, HEIGHT)


def by_class(series: alt.Chart, shape: alt.Shape) -> AnyChart:
    """AP {class, AP: 0..1} as points, a row for each class in their order; `shape` tells the coloured `series` apart
    where colours do not."""
    points = series.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("AP:Q", title="COCO AP", scale=alt.Scale(zero=True)),
        y=alt.Y("class:N", title="class", sort=None),
        shape=shape,
        tooltip=["class:N", shape.shorthand, alt.Tooltip("AP:Q", format=".4f")],
    )
    return by_row(points)


def by_row(chart: AnyChart, step: int = CLASS_STEP) -> AnyChart:
    """A chart with a row of `step` pixels for each class or arm, and the legend below."""
    tall: AnyChart = _fitted(chart, {"step": step}).configure_legend(orient="bottom")
    return tall


def _fitted(chart: AnyChart, height: int | dict[str, int]) -> AnyChart:
    """As wide as its place, also when rows that come later bring a legend or longer labels."""
    autosize = alt.AutoSizeParams(type="fit-x", contains="padding", resize=True)
    fitted: AnyChart = chart.properties(width=WIDTH, height=height, autosize=autosize)
    return fitted
